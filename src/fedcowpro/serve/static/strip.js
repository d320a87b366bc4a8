// The strip above the slice's slider: confidence per slice, and which slices are examples.
import { ramp } from "./colours.js";

export class Strip {
  constructor(canvas, onChoose) {
    this.canvas = canvas;
    canvas.addEventListener("pointerdown", (event) => {
      const box = canvas.getBoundingClientRect();
      const place = Math.floor(((event.clientX - box.left) / box.width) * this.depth);
      onChoose(Math.min(this.depth - 1, Math.max(0, place)));
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  depth = 1;

  // confidence: a number or null per slice; painted: a set of slice numbers.
  show(depth, confidence, painted, current) {
    Object.assign(this, { depth, confidence, painted, current });
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const scale = globalThis.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    if (!this.painted) return;
    const style = getComputedStyle(document.documentElement);
    const [text, edge] = [style.getPropertyValue("--text"), style.getPropertyValue("--edge")];
    const cell = width / this.depth;
    const top = 9; // the row of marks
    const unknown = (z) => z < this.depth && (this.confidence?.[z] ?? null) === null;
    for (let z = 0, run = 0; z < this.depth; z++) {
      const left = z * cell;
      if (unknown(z)) {
        run += 1; // hatched at once: hundreds of small areas take a software renderer a second
        if (!unknown(z + 1)) hatch(pen, left + cell - run * cell, top, run * cell, height - top, edge);
      } else {
        run = 0;
        pen.fillStyle = ramp(this.confidence[z]);
        pen.fillRect(left, top, Math.max(1, cell - (cell > 4 ? 1 : 0)), height - top);
      }
      if (this.painted.has(z)) {
        pen.fillStyle = text;
        const middle = left + cell / 2;
        pen.beginPath();
        pen.moveTo(middle - 5, 0);
        pen.lineTo(middle + 5, 0);
        pen.lineTo(middle, 8);
        pen.fill();
      }
    }
    pen.strokeStyle = text;
    pen.lineWidth = 2;
    pen.strokeRect(Math.min(width - 3, this.current * cell) + 1, top + 1, Math.max(3, cell) - 2, height - top - 2);
  }
}

// A cell of thin slanted lines.
function hatch(pen, left, top, width, height, colour) {
  pen.save();
  pen.beginPath();
  pen.rect(left, top, width, height);
  pen.clip();
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let x = left - height; x < left + width; x += 5) {
    pen.moveTo(x, top + height);
    pen.lineTo(x + height, top);
  }
  pen.stroke();
  pen.restore();
}
