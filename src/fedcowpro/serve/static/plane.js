// One slice on a 2-D canvas: no texture of the whole volume is needed, so that large volumes appear at once.
import { channels } from "./colours.js";

const MOST_ZOOM = 16;

// An image as the server sends it: NIfTI-1, int16, RAS order. Offsets are those of the NIfTI-1 header.
export function parse(bytes) {
  const head = new DataView(bytes);
  const size = [1, 2, 3].map((i) => head.getInt16(40 + 2 * i, true));
  const [slope, start] = [head.getFloat32(112, true) || 1, head.getFloat32(116, true)];
  const voxels = new Int16Array(bytes, head.getFloat32(108, true), size[0] * size[1] * size[2]);
  let [least, most] = [voxels[0], voxels[0]];
  for (let i = 1; i < voxels.length; i++) {
    const value = voxels[i];
    if (value < least) least = value;
    else if (value > most) most = value;
  }
  const real = (stored) => stored * slope + start;
  const spacing = [1, 2, 3].map((i) => head.getFloat32(76 + 4 * i, true));
  const window = [head.getFloat32(128, true), head.getFloat32(124, true)];
  return { size, spacing, voxels, slope, start, least: real(least), most: real(most), window };
}

export class Plane {
  #image = null;
  #grey = document.createElement("canvas");
  #paint = document.createElement("canvas");
  #colours = new Uint8Array(3 * 256);
  #hidden = new Uint8Array(256);
  opacity = 0.5;
  outline = false;
  zoom = 1;
  pan = [0, 0]; // CSS pixels
  window = [0, 1];

  constructor(canvas) {
    this.canvas = canvas;
  }

  set(image) {
    this.#image = image;
    if (!image) return;
    this.window = image.window;
    const [width, height] = image.size;
    for (const layer of [this.#grey, this.#paint]) [layer.width, layer.height] = [width, height];
    this.fit();
  }

  fit() {
    this.zoom = 1;
    this.pan = [0, 0];
  }

  setColours(values) {
    for (const value of values) this.#colours.set(channels(value), 3 * value);
  }

  // hidden: label values that are not shown.
  hide(hidden) {
    this.#hidden.fill(0);
    for (const value of hidden) this.#hidden[value] = 1;
  }

  // What a pixel of a slice shows, in the image's own unit.
  valueAt(z, index) {
    const { size, voxels, slope, start } = this.#image;
    return voxels[z * size[0] * size[1] + index] * slope + start;
  }

  // CSS pixels per pixel of the slice, and the place of its middle.
  #place() {
    const { size, spacing } = this.#image;
    const [wide, high] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const base = Math.min(wide / (size[0] * spacing[0]), high / (size[1] * spacing[1])) * this.zoom;
    return { scale: [base * spacing[0], base * spacing[1]], middle: [wide / 2 + this.pan[0], high / 2 + this.pan[1]] };
  }

  // From a place on the canvas (CSS pixels) to (x, y) in pixels of the slice; x and y grow to the left and up.
  toPixel([left, top]) {
    const { scale, middle } = this.#place();
    const { size } = this.#image;
    return [(size[0] - 1) / 2 - (left - middle[0]) / scale[0], (size[1] - 1) / 2 - (top - middle[1]) / scale[1]];
  }

  toScreen([x, y]) {
    const { scale, middle } = this.#place();
    const { size } = this.#image;
    return [middle[0] + ((size[0] - 1) / 2 - x) * scale[0], middle[1] + ((size[1] - 1) / 2 - y) * scale[1]];
  }

  // Zoom by a factor and keep what lies at a place of the canvas where it is.
  zoomAt(factor, [left, top]) {
    const before = this.zoom;
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, before * factor));
    const ratio = this.zoom / before;
    const middle = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    this.pan = [left, top].map((at, i) => (at - middle[i]) * (1 - ratio) + this.pan[i] * ratio);
    if (this.zoom === 1) this.pan = [0, 0];
  }

  draw(z, labels) {
    const { canvas } = this;
    const scale = globalThis.devicePixelRatio || 1;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.max(1, Math.round(wide * scale));
    canvas.height = Math.max(1, Math.round(high * scale));
    if (!this.#image) return;
    this.#drawGrey(z);
    this.#drawPaint(z, labels);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const { scale: pixel, middle } = this.#place();
    const [width, height] = this.#image.size;
    const box = [middle[0] - (width * pixel[0]) / 2, middle[1] - (height * pixel[1]) / 2, width * pixel[0], height * pixel[1]];
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.#grey, ...box);
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = this.outline ? 1 : this.opacity;
    pen.drawImage(this.#paint, ...box);
    pen.globalAlpha = 1;
    pen.fillStyle = "#dfe7f2";
    pen.font = "13px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.fillText("A", wide / 2, 14);
    pen.fillText("P", wide / 2, high - 6);
    pen.fillText("R", 10, high / 2);
    pen.fillText("L", wide - 10, high / 2);
  }

  #drawGrey(z) {
    const { size: [width, height], voxels, slope, start } = this.#image;
    const pen = this.#grey.getContext("2d");
    const out = pen.createImageData(width, height);
    const words = new Uint32Array(out.data.buffer);
    const [low, high] = this.window;
    const gain = (255 * slope) / Math.max(1e-6, high - low);
    const offset = (255 * (start - low)) / Math.max(1e-6, high - low);
    const last = (z + 1) * width * height - 1; // x and y grow to the left and up: the slice backwards
    for (let i = 0; i < words.length; i++) {
      const value = voxels[last - i] * gain + offset;
      const grey = value <= 0 ? 0 : value >= 255 ? 255 : value | 0;
      words[i] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    pen.putImageData(out, 0, 0);
  }

  #drawPaint(z, labels) {
    const [width, height] = this.#image.size;
    const pen = this.#paint.getContext("2d");
    const out = pen.createImageData(width, height);
    const [first, count] = [z * width * height, width * height];
    for (let i = 0; i < count; i++) {
      const at = first + count - 1 - i;
      const value = labels[at];
      if (!value || this.#hidden[value]) continue;
      if (this.outline && !this.#onEdge(labels, at, first, value)) continue;
      out.data.set(this.#colours.subarray(3 * value, 3 * value + 3), 4 * i);
      out.data[4 * i + 3] = 255;
    }
    pen.putImageData(out, 0, 0);
  }

  #onEdge(labels, at, first, value) {
    const [width, height] = this.#image.size;
    const x = (at - first) % width;
    const y = ((at - first) / width) | 0;
    return (
      x === 0 || y === 0 || x === width - 1 || y === height - 1 ||
      labels[at - 1] !== value || labels[at + 1] !== value || labels[at - width] !== value || labels[at + width] !== value
    );
  }
}
