// All open volumes in one table: a picture, millilitres and confidence per label, the most doubtful first.
import * as api from "./api.js";
import { channels, colour } from "./colours.js";
import { make } from "./page.js";

const SIDE = 96; // of a picture, as the server sends it

export class Overview {
  #pictures = new Map(); // volume's id -> { of, canvas }; `of` tells which masks it shows

  // `onChoose(id)` opens a volume; `onMask(id, use)` takes the label map that lies beside it.
  constructor(table, onChoose, onMask) {
    Object.assign(this, { table, onChoose, onMask });
  }

  show(volumes, labels) {
    const values = labels.values().filter((value) => volumes.some(({ info }) => info.volumes[value] !== undefined));
    const head = ["", "Volume", ...values.map((value) => labels.name(value))];
    const cells = head.map((textContent, i) => {
      const cell = make("th", { scope: "col", textContent });
      if (i > 1) cell.style.borderBottom = `3px solid ${colour(values[i - 2])}`;
      return cell;
    });
    this.table.tHead.rows[0].replaceChildren(...cells);
    const sorted = [...volumes].sort((one, other) => doubt(other) - doubt(one));
    this.table.tBodies[0].replaceChildren(...sorted.map((volume) => this.#row(volume, values)));
  }

  #row(volume, values) {
    const { info } = volume;
    const open = make("button", { type: "button", className: "volume", textContent: info.name, onclick: () => this.onChoose(info.id) });
    const state = volume.painted.size ? `${volume.painted.size} of ${info.size[2]} slices painted` : info.segmented ? "segmented" : "nothing yet";
    open.append(make("small", { textContent: state }));
    const first = make("td", {}, open);
    if (info.mask && !volume.painted.size) {
      const use = (text, how) => make("button", { type: "button", textContent: text, onclick: () => this.onMask(info.id, how) });
      first.append(make("div", { className: "buttons" }, use("Its mask as example", "example"), use("Its mask to correct", "start")));
    }
    const found = values.map((value) => {
      const amount = info.volumes[value];
      const sure = info.confidence[value];
      const text = amount === undefined ? "–" : `${amount.toFixed(amount < 10 ? 1 : 0)} ml`;
      return make("td", { textContent: text }, make("small", { textContent: sure === undefined || sure === null ? "" : sure.toFixed(2) }));
    });
    return make("tr", {}, make("td", {}, this.#picture(volume)), first, ...found);
  }

  #picture({ info, painted }) {
    const of = JSON.stringify([info.volumes, painted.size]);
    const known = this.#pictures.get(info.id);
    if (known?.of === of) return known.canvas;
    const canvas = make("canvas", { width: SIDE, height: SIDE, attributes: { "aria-hidden": "true" } });
    this.#pictures.set(info.id, { of, canvas });
    api.thumbnail(info.id).then((bytes) => paint(canvas, bytes)).catch(() => this.#pictures.delete(info.id));
    return canvas;
  }
}

// How little is known of a volume: by its least sure label; what is painted whole or not segmented stands behind.
function doubt({ info, painted }) {
  if (painted.size === info.size[2]) return -1;
  const sure = Object.values(info.confidence).map((value) => value ?? 0);
  return info.segmented && sure.length ? 1 - Math.min(...sure) : -1;
}

function paint(canvas, bytes) {
  const pen = canvas.getContext("2d");
  const out = pen.createImageData(SIDE, SIDE);
  for (let i = 0; i < SIDE * SIDE; i++) {
    const [grey, value] = [bytes[i], bytes[SIDE * SIDE + i]];
    const shown = value ? channels(value).map((one) => (one + grey) / 2) : [grey, grey, grey];
    out.data.set([...shown, 255], 4 * i);
  }
  pen.putImageData(out, 0, 0);
}
