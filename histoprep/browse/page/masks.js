// Masks come as PNG that hold a number a pixel (red + 256 * green): 1 + place of a class, 0 for none.
import { hiddenClasses } from "./state.js";

const kept = new Map();
const MOST = 600;

/** Return { width, height, numbers } of a PNG at an address, null where there is no mask. */
export async function fetchNumbers(address) {
  if (kept.has(address)) return kept.get(address);
  const response = await fetch(address);
  if (response.status !== 200) return null;
  const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const numbers = new Uint16Array(bitmap.width * bitmap.height);
  for (let at = 0; at < numbers.length; at += 1) numbers[at] = data[4 * at] | (data[4 * at + 1] << 8);
  const mask = { width: bitmap.width, height: bitmap.height, numbers };
  kept.set(address, mask);
  if (kept.size > MOST) kept.delete(kept.keys().next().value);
  return mask;
}

export const overlayOf = (set, row) => `/api/overlay/${row}?set=${set}`;

const rgb = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

/**
 * Paint a mask. `entries` say for each number from 1 on { colour, key, plain }: keys that are hidden
 * are left out; plain ones (label 0) are only painted where the mask stands alone.
 */
export function paint(canvas, mask, entries, { opacity, outlines, alone }) {
  const { width, height, numbers } = mask;
  canvas.width = width;
  canvas.height = height;
  const colours = [null, ...entries.map((entry) => (hiddenClasses.has(entry.key) || (entry.plain && !alone) ? null : rgb(entry.colour)))];
  const image = new ImageData(width, height);
  const fill = alone ? 255 : Math.round(2.55 * opacity);
  for (let row = 0, at = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1, at += 1) {
      const number = numbers[at];
      const colour = colours[number];
      if (!colour) continue;
      const edge =
        outlines &&
        ((column > 0 && numbers[at - 1] !== number) ||
          (column + 1 < width && numbers[at + 1] !== number) ||
          (row > 0 && numbers[at - width] !== number) ||
          (row + 1 < height && numbers[at + width] !== number));
      const start = 4 * at;
      [image.data[start], image.data[start + 1], image.data[start + 2]] = colour;
      image.data[start + 3] = edge ? 255 : fill;
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
