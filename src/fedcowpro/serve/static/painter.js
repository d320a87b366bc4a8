// Painting on the slice that is shown, by mouse, finger, pen or keys. Knows nothing of the server.
import { differ, fill, stroke } from "./paint.js";

const KEPT = 60; // steps that can be undone

export class Painter extends EventTarget {
  tool = "pen"; // pen, fill, erase or look
  radius = 5;
  locked = false; // nothing may be painted
  range = null; // [from, to]: only pixels with these values are painted
  #drag = null; // the way of a mouse that moves the image or its window
  value = 1;
  cursor = null; // (x, y) in pixels of the slice
  #points = null; // of the stroke that is being made
  #before = null;

  constructor(viewer, surface, ring) {
    super();
    Object.assign(this, { viewer, surface, ring });
    surface.addEventListener("pointerdown", (event) => this.#down(event));
    surface.addEventListener("pointermove", (event) => this.#move(event));
    surface.addEventListener("pointerup", () => this.#end());
    surface.addEventListener("pointercancel", () => this.#end());
    surface.addEventListener("pointerleave", () => this.#points ?? this.#showRing(null));
    // Else the middle button scrolls in some browsers, which take the rest of its way.
    surface.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault());
    surface.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  // The volume that is painted on: { bitmap, painted, undo, redo }.
  setTarget(target) {
    this.target = target;
    this.cursor = null;
    this.#points = null;
    this.#showRing(null);
  }

  get ready() {
    return Boolean(this.target?.bitmap) && !this.locked && this.viewer.view === "slice";
  }

  pixels(z = this.viewer.slice) {
    const [width, height] = this.viewer.size;
    return this.target.bitmap.subarray(z * width * height, (z + 1) * width * height);
  }

  // Move the keys' cursor; with `drawing` the pen is down meanwhile.
  step(dx, dy, drawing) {
    if (!this.ready) return;
    const [width, height] = this.viewer.size;
    const from = this.cursor ?? [width / 2, height / 2];
    const to = [Math.min(width - 1, Math.max(0, from[0] + dx)), Math.min(height - 1, Math.max(0, from[1] + dy))];
    this.cursor = to;
    if (drawing) this.#whole([from, to]);
    this.#showRing(to);
  }

  dab() {
    if (!this.ready) return;
    const [width, height] = this.viewer.size;
    this.cursor ??= [width / 2, height / 2];
    this.#whole([this.cursor]);
    this.#showRing(this.cursor);
  }

  undo() {
    return this.#exchange("undo", "redo");
  }

  redo() {
    return this.#exchange("redo", "undo");
  }

  // The slice without any label; it is then an example without one.
  clear() {
    if (!this.ready) return;
    this.#begin();
    this.#points = [];
    this.pixels().fill(0);
    this.#end();
  }

  #exchange(from, to) {
    const last = this.locked ? undefined : this.target?.[from].pop();
    if (!last) return false;
    this.target[to].push({ z: last.z, pixels: this.pixels(last.z).slice(), painted: this.target.painted.has(last.z) });
    this.pixels(last.z).set(last.pixels);
    if (this.viewer.slice !== last.z) this.viewer.setSlice(last.z);
    this.viewer.refreshSlice(last.z);
    this.#tell(last.z, last.painted);
    return true;
  }

  redrawRing() {
    this.#showRing(this.cursor);
  }

  #whole(points) {
    this.#begin();
    this.#points = [points[0]];
    this.#draw(points[0], points[0]);
    if (points[1]) this.#draw(points[0], points[1]);
    this.#end();
  }

  #begin() {
    const z = this.viewer.slice;
    this.#before = { z, pixels: this.pixels(z).slice(), painted: this.target.painted.has(z) };
  }

  #down(event) {
    const way = event.button === 2 ? "window" : event.button === 1 || this.tool === "look" ? "pan" : null;
    if (way && this.viewer.view === "slice") {
      this.surface.setPointerCapture(event.pointerId);
      this.#drag = { way, x: event.clientX, y: event.clientY };
      event.preventDefault();
      return;
    }
    if (!this.ready || event.button !== 0) return;
    const place = this.viewer.toPixel(event.clientX, event.clientY);
    if (!place) return;
    this.surface.setPointerCapture(event.pointerId);
    this.#begin();
    this.#points = [place];
    this.#draw(place, place);
  }

  #move(event) {
    if (this.#drag) {
      const { way, x, y } = this.#drag;
      this.#drag = { way, x: event.clientX, y: event.clientY };
      if (way === "pan") this.viewer.pan(event.clientX - x, event.clientY - y);
      else this.viewer.shiftWindow(event.clientX - x, event.clientY - y);
      return;
    }
    if (!this.ready || this.tool === "look") return;
    // A browser that is busy puts several places of the mouse into one event.
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const place = this.viewer.toPixel(one.clientX, one.clientY);
      if (!place) continue;
      this.#showRing(place);
      if (!this.#points) continue;
      this.#draw(this.#points.at(-1), place);
      this.#points.push(place);
    }
  }

  #draw(from, to) {
    const [width, height] = this.viewer.size;
    const value = this.tool === "erase" ? 0 : this.value;
    const radius = this.tool === "fill" ? 0.75 : this.radius;
    stroke(this.pixels(this.#before.z), width, height, from, to, radius, value);
    if (this.tool !== "fill") this.#keepToRange();
    this.viewer.refreshSlice(this.#before.z);
    // A long stroke is worth keeping before it ends; the line that only shows the way is not.
    if (this.tool !== "fill") this.dispatchEvent(new CustomEvent("drawing", { detail: { target: this.target, z: this.#before.z } }));
  }

  // What lies outside the range of grey values stays as it was.
  #keepToRange() {
    if (!this.range || this.tool === "erase") return;
    const { z, pixels: before } = this.#before;
    const pixels = this.pixels(z);
    const [from, to] = this.range;
    for (let i = 0; i < pixels.length; i++) {
      if (pixels[i] === before[i]) continue;
      const value = this.viewer.valueAt(z, i);
      if (value < from || value > to) pixels[i] = before[i];
    }
  }

  #end() {
    this.#drag = null;
    if (!this.#points) return;
    const { z, pixels, painted } = this.#before;
    const [width, height] = this.viewer.size;
    if (this.tool === "fill" && this.#points.length > 2) {
      // The line showed the way; what counts is what it encloses.
      this.pixels(z).set(pixels);
      fill(this.pixels(z), width, height, this.#points, this.value);
      this.#keepToRange();
    }
    this.#points = null;
    this.viewer.refreshSlice(z);
    if (!differ(pixels, this.pixels(z))) {
      this.#tell(z, painted);
      return;
    }
    this.target.redo.length = 0;
    this.target.undo.push({ z, pixels, painted });
    if (this.target.undo.length > KEPT) this.target.undo.shift();
    this.#tell(z, true);
  }

  #tell(z, painted) {
    this.dispatchEvent(new CustomEvent("painted", { detail: { target: this.target, z, painted } }));
  }

  #showRing(place) {
    const shown = place && this.ready && this.tool !== "look" ? this.viewer.toScreen(place) : null;
    this.ring.hidden = !shown;
    if (!shown) return;
    this.cursor = place;
    const right = this.viewer.toScreen([place[0] + 1, place[1]]);
    const scale = right ? Math.hypot(right[0] - shown[0], right[1] - shown[1]) : 1;
    const across = Math.max(4, 2 * (this.tool === "fill" ? 0.75 : Math.max(this.radius, 0.5)) * scale);
    Object.assign(this.ring.style, {
      left: `${shown[0] - across / 2}px`,
      top: `${shown[1] - across / 2}px`,
      width: `${across}px`,
      height: `${across}px`,
    });
  }
}
