// Drawing on one slice: `pixels` is a Uint8Array of width x height, x fastest. All functions change it in place.

const THINNEST = 0.71; // half a pixel's diagonal: every line hits pixels, and without gaps

// All pixels whose centres lie within `radius` of the line between two points.
export function stroke(pixels, width, height, from, to, radius, value) {
  const reach = Math.max(radius, THINNEST);
  const [x0, x1] = [Math.min(from[0], to[0]) - reach, Math.max(from[0], to[0]) + reach];
  const [y0, y1] = [Math.min(from[1], to[1]) - reach, Math.max(from[1], to[1]) + reach];
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length = dx * dx + dy * dy;
  for (let y = Math.max(0, Math.ceil(y0)); y <= Math.min(height - 1, Math.floor(y1)); y++) {
    for (let x = Math.max(0, Math.ceil(x0)); x <= Math.min(width - 1, Math.floor(x1)); x++) {
      const along = length ? ((x - from[0]) * dx + (y - from[1]) * dy) / length : 0;
      const t = Math.min(1, Math.max(0, along));
      const [ex, ey] = [x - from[0] - t * dx, y - from[1] - t * dy];
      if (ex * ex + ey * ey <= reach * reach) pixels[y * width + x] = value;
    }
  }
}

// The inside of the closed line through `points`, by the even-odd rule at pixel centres.
export function fill(pixels, width, height, points, value) {
  if (points.length < 3) return;
  for (let y = 0; y < height; y++) {
    const crossings = [];
    for (let i = 0; i < points.length; i++) {
      const [a, b] = [points[i], points[(i + 1) % points.length]];
      if (a[1] <= y !== b[1] <= y) crossings.push(a[0] + ((y - a[1]) / (b[1] - a[1])) * (b[0] - a[0]));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const first = Math.max(0, Math.ceil(crossings[i]));
      const last = Math.min(width - 1, Math.floor(crossings[i + 1]));
      for (let x = first; x <= last; x++) pixels[y * width + x] = value;
    }
  }
}

export function differ(a, b) {
  return a.length !== b.length || a.some((value, index) => value !== b[index]);
}
