// Shortcuts. Letters work anywhere but in text fields and dialogs; arrows and space only on the image.
import { $ } from "./page.js";

const ARROWS = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [1, 0], ArrowRight: [-1, 0] };

// The page shows the patient's right on the left: x grows to the patient's right, so to the left of the screen.
export function listen(actions) {
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.target.matches?.("input[type=text], input[type=password], input[type=number], select")) return;
    const action = find(event, actions);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function find(event, actions) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") return event.shiftKey ? actions.redo : actions.undo;
    return key === "y" ? actions.redo : null;
  }
  if (document.activeElement === $("surface")) {
    if (ARROWS[key]) {
      const [x, y] = ARROWS[key].map((step) => step * (event.altKey ? 10 : 1));
      return () => actions.step(x, y, event.shiftKey);
    }
    if (key === " ") return actions.dab;
  }
  if (event.altKey) return null;
  const onSlider = event.target.matches?.("input[type=range]");
  if (!onSlider && key === "PageUp") return () => actions.slice(1);
  if (!onSlider && key === "PageDown") return () => actions.slice(-1);
  if (/^[1-9]$/.test(key)) return () => actions.label(Number(key));
  return actions[{ "?": "help", "[": "first", "]": "last", "-": "smaller", "+": "larger", "=": "larger", p: "pen", f: "fill", e: "erase", l: "look", x: "example",
    v: "view", b: "outline", t: "table", s: "segment", n: "next", o: "open" }[key]];
}
