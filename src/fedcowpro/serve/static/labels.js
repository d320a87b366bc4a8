// The list of labels: a value with a fixed colour and a name that can be changed.
import * as api from "./api.js";
import { colour, useColours } from "./colours.js";
import { $, attempt, make } from "./page.js";

const MOST = 9; // the number keys reach them all

export class Labels extends EventTarget {
  list = [];
  active = 1;
  hidden = new Set(); // that are not shown

  constructor() {
    super();
    $("add-label").addEventListener("click", () => this.add());
  }

  set(list) {
    this.list = list;
    if (!list.some((label) => label.value === this.active)) this.active = list[0].value;
    this.#draw();
  }

  name(value) {
    return this.list.find((label) => label.value === value)?.name ?? `label ${value}`;
  }

  values() {
    return this.list.map((label) => label.value);
  }

  choose(value) {
    if (!this.list.some((label) => label.value === value)) return;
    this.active = value;
    this.#draw();
  }

  async add() {
    const value = [1, 2, 3, 4, 5, 6, 7, 8, 9].find((one) => !this.values().includes(one));
    if (await this.#put([...this.list, { value, name: `organ ${value}` }])) this.choose(value);
  }

  // The server refuses a list without a label that is drawn; then the old one stays.
  async #put(list) {
    const sorted = [...list].sort((a, b) => a.value - b.value);
    const done = await attempt(() => api.putLabels(sorted));
    if (done) this.list = done.labels;
    if (!this.values().includes(this.active)) this.active = this.list[0].value;
    this.#draw();
    return Boolean(done);
  }

  #draw() {
    useColours(this.list);
    const items = this.list.map((label) => {
      const radio = make("input", { type: "radio", name: "label", checked: label.value === this.active });
      radio.setAttribute("aria-label", `Paint ${label.name}`);
      radio.addEventListener("change", () => this.choose(label.value));
      const swatch = make("span", { className: "swatch", textContent: label.value, attributes: { "aria-hidden": "true" } });
      swatch.style.backgroundColor = colour(label.value);
      const name = make("input", { type: "text", value: label.name, maxLength: 64, attributes: { list: "terms" } });
      name.setAttribute("aria-label", `Name of label ${label.value}`);
      name.addEventListener("change", () => {
        const text = name.value.trim();
        if (!text) name.value = label.name;
        else this.#put(this.list.map((one) => (one === label ? { ...one, name: text } : one)));
      });
      const eye = make("button", { type: "button", className: "eye", textContent: this.hidden.has(label.value) ? "○" : "●" });
      eye.setAttribute("aria-label", `Show ${label.name}`);
      eye.setAttribute("aria-pressed", String(!this.hidden.has(label.value)));
      eye.title = "Show or hide";
      eye.addEventListener("click", () => {
        if (!this.hidden.delete(label.value)) this.hidden.add(label.value);
        eye.textContent = this.hidden.has(label.value) ? "○" : "●";
        eye.setAttribute("aria-pressed", String(!this.hidden.has(label.value)));
        this.dispatchEvent(new Event("shown"));
      });
      const remove = make("button", { type: "button", className: "remove", textContent: "×" });
      remove.setAttribute("aria-label", `Remove label ${label.name}`);
      remove.hidden = this.list.length === 1;
      remove.addEventListener("click", () => this.#put(this.list.filter((one) => one !== label)));
      return make("li", {}, radio, swatch, name, eye, remove);
    });
    const focused = document.activeElement?.name === "label";
    $("label-list").replaceChildren(...items);
    if (focused) $("label-list").querySelector("input:checked")?.focus();
    $("add-label").hidden = this.list.length >= MOST;
    this.dispatchEvent(new Event("changed"));
  }
}
