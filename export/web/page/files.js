// The large files of the site: next to the page, or inside it if it is one file. The page lists their sizes.

import { PageError } from "errors";

const sizes = JSON.parse(document.getElementById("files").textContent);

/** Whether the site has a file. */
export const has = (path) => Object.hasOwn(sizes, path);

/** Bytes of some files of the site. */
export const bytesOf = (paths) => paths.reduce((sum, path) => sum + sizes[path], 0);

/** The address of an image of the site. */
export function addressOf(path) {
  const inside = document.getElementById(path);
  return inside ? `data:image/png;base64,${inside.textContent}` : path;
}

/** A file, Uint8Array; `onBytes` is called with the size of every chunk that has arrived. */
export async function read(path, onBytes = () => {}) {
  const inside = document.getElementById(path);
  const bytes = new Uint8Array(sizes[path]);
  let filled = 0;
  for await (const part of inside ? [decoded(inside.textContent)] : fetched(path)) {
    if (filled + part.length <= bytes.length) bytes.set(part, filled);
    filled += part.length;
    onBytes(part.length);
  }
  if (filled !== bytes.length) throw new PageError(`${path} is not whole: copy the whole folder of this page again.`);
  return bytes;
}

/** A JSON file, parsed. */
export async function readJson(path, onBytes) {
  return JSON.parse(new TextDecoder().decode(await read(path, onBytes)));
}

async function* fetched(path) {
  const response = await fetch(path).catch(() => null);
  if (!response?.ok) throw new PageError(`${path} cannot be read: copy the whole folder of this page again.`);
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

function decoded(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
