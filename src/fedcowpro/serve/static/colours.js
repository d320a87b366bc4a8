// Colours of labels, by value: the server says which, so that an organ has the same one on every page and picture.
// Labels are told by their numbers as well.
const colours = new Map();
const OTHERS = ["#e69f00", "#56b4e9", "#1fbf92", "#f0e442", "#ff7a33", "#e39ac6", "#5c9dff", "#ffffff"]; // off the list

export const useColours = (labels) => labels.forEach((label) => colours.set(label.value, label.colour));

export const colour = (value) => colours.get(value) ?? OTHERS[(value - 1) % OTHERS.length];

export function channels(value) {
  const hex = colour(value);
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

// Confidence 0..1 as a colour from dark violet to yellow; every step is lighter than the one before.
const RAMP = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [253, 231, 37],
];

export function ramp(confidence) {
  const place = Math.min(1, Math.max(0, confidence)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(place));
  const mixed = RAMP[low].map((start, i) => Math.round(start + (place - low) * (RAMP[low + 1][i] - start)));
  return `rgb(${mixed.join(" ")})`;
}
