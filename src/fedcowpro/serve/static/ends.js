// Where organs begin and end: a row per label under the strip, with a handle at each end.
import { colour } from "./colours.js";
import { make } from "./page.js";

const SIDES = ["first", "last"];

export class Ends {
  #rows = new Map(); // value -> { track, bar, handles, ends }
  depth = 1;

  // `onChange(value, [first, last])` when ends were set, `onShow(z)` while a handle moves; null is an end not known.
  constructor(list, onChange, onShow) {
    Object.assign(this, { list, onChange, onShow });
  }

  // rows: { value, name, ends } of the labels to show.
  show(depth, rows) {
    this.depth = Math.max(1, depth);
    const same = rows.length === this.#rows.size && rows.every((row) => this.#rows.has(row.value));
    if (!same) {
      this.#rows = new Map(rows.map((row) => [row.value, this.#make(row.value)]));
      this.list.replaceChildren(...[...this.#rows.values()].map((row) => row.track));
    }
    for (const { value, name, ends } of rows) this.#place(this.#rows.get(value), name, ends);
  }

  #make(value) {
    const bar = make("span", { className: "bar" });
    bar.style.backgroundColor = colour(value);
    const handles = SIDES.map((side, index) => {
      const handle = make("span", { className: `end ${side}`, textContent: value, tabIndex: 0, attributes: { role: "slider", "aria-valuemin": 1 } });
      handle.style.backgroundColor = colour(value);
      handle.addEventListener("keydown", (event) => this.#key(event, value, index));
      handle.addEventListener("pointerdown", (event) => this.#drag(event, value, index));
      return handle;
    });
    const track = make("li", {}, bar, ...handles);
    track.addEventListener("pointerdown", (event) => {
      if (event.target !== track && event.target !== bar) return;
      const z = this.#slice(event.clientX, track);
      const [first, last] = this.#shown(this.#rows.get(value).ends);
      this.onShow(z);
      this.#set(value, Math.abs(z - first) <= Math.abs(z - last) ? 0 : 1, z);
    });
    return { track, bar, handles, ends: [null, null] };
  }

  #shown([first, last]) {
    return [first ?? 0, last ?? this.depth - 1];
  }

  #place(row, name, ends) {
    row.ends = ends;
    const [first, last] = this.#shown(ends);
    const [left, right] = [(100 * first) / this.depth, (100 * (last + 1)) / this.depth];
    row.bar.style.left = `${left}%`;
    row.bar.style.width = `${right - left}%`;
    row.handles[0].style.left = `${left}%`;
    row.handles[1].style.left = `${right}%`;
    row.handles.forEach((handle, index) => {
      const known = ends[index] !== null;
      const z = [first, last][index];
      handle.classList.toggle("unknown", !known);
      handle.setAttribute("aria-label", `${index ? "Last" : "First"} slice of ${name}`);
      handle.setAttribute("aria-valuemax", this.depth);
      handle.setAttribute("aria-valuenow", z + 1);
      handle.setAttribute("aria-valuetext", known ? `slice ${z + 1}` : "not known");
      handle.title = `${name}: ${index ? "last" : "first"} slice ${known ? z + 1 : "not known"}`;
    });
  }

  #slice(clientX, track) {
    const box = track.getBoundingClientRect();
    return Math.min(this.depth - 1, Math.max(0, Math.floor(((clientX - box.left) / box.width) * this.depth)));
  }

  // The other end gives way, so that first is never after last.
  #moved(value, index, z) {
    const ends = [...this.#rows.get(value).ends];
    ends[index] = z;
    const other = 1 - index;
    if (z !== null && ends[other] !== null && (index === 0 ? ends[1] < z : ends[0] > z)) ends[other] = z;
    return ends;
  }

  #set(value, index, z) {
    this.onChange(value, this.#moved(value, index, z));
  }

  // For the keys and the buttons: this slice is the first, or the last.
  set(value, ends, index, z) {
    if (!this.#rows.has(value)) this.#rows.set(value, { ...this.#make(value), ends });
    this.#rows.get(value).ends = ends;
    this.#set(value, index, z);
  }

  #drag(event, value, index) {
    event.preventDefault();
    const handle = event.target;
    const row = this.#rows.get(value);
    handle.focus();
    handle.setPointerCapture(event.pointerId);
    let ends = null;
    const move = (at) => {
      const z = this.#slice(at.clientX, row.track);
      ends = this.#moved(value, index, z);
      this.onShow(z);
      const kept = row.ends;
      this.#place(row, handle.getAttribute("aria-label").replace(/^(First|Last) slice of /, ""), ends);
      row.ends = kept;
    };
    const stop = () => {
      handle.removeEventListener("pointermove", move);
      handle.removeEventListener("pointerup", stop);
      handle.removeEventListener("pointercancel", stop);
      if (ends) this.onChange(value, ends);
      else this.onShow(this.#shown(row.ends)[index]);
    };
    handle.addEventListener("pointermove", move);
    handle.addEventListener("pointerup", stop);
    handle.addEventListener("pointercancel", stop);
  }

  #key(event, value, index) {
    const z = this.#shown(this.#rows.get(value).ends)[index];
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -this.depth, End: this.depth };
    if (event.key === "Delete" || event.key === "Backspace") this.#set(value, index, null);
    else if (steps[event.key] === undefined) return;
    else {
      const to = Math.min(this.depth - 1, Math.max(0, z + steps[event.key]));
      this.onShow(to);
      this.#set(value, index, to);
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
