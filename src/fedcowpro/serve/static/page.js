// Small things that all parts of the page need.
export const $ = (id) => document.getElementById(id);

// An element with properties and children; text never becomes markup.
export function make(tag, properties = {}, ...children) {
  const { attributes = {}, ...others } = properties;
  const element = Object.assign(document.createElement(tag), others);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function say(text) {
  $("live").textContent = text;
}

export function showError(error) {
  const known = error.expected !== undefined;
  const lines = known
    ? [`Got: ${error.got}`, `Expected: ${error.expected}`, `What to do: ${error.remedy}`]
    : ["Something in the page failed", String(error.message ?? error), "What to do: load the page again"];
  $("alert-text").replaceChildren(...lines.map((line) => make("p", { textContent: line })));
  $("alert").hidden = false;
}

// What a person should know and need not act on.
export function showNotes(notes) {
  if (!notes.length) return;
  $("alert-text").replaceChildren(...notes.map((note) => make("p", { textContent: `Note: ${note}` })));
  $("alert").hidden = false;
}

export function hideError() {
  $("alert").hidden = true;
}

// Run something that a person started; what goes wrong is shown.
export async function attempt(action) {
  try {
    hideError();
    return await action();
  } catch (error) {
    showError(error);
    return undefined;
  }
}

export function press(buttons, chosen) {
  for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
}
