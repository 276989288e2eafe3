// Errors, in one line that says what to do.

/** An error whose message is written for the user. */
export class PageError extends Error {}

const MEMORY = /out of memory|bad_alloc|allocat|memory access out of bounds|array buffer|invalid array length/i;

/** Anything thrown, as one line. */
export function explain(error) {
  if (error instanceof PageError || error?.explained) return error.message; // explained: by the other thread
  const text = String(error?.message ?? error).split("\n")[0];
  if (error instanceof RangeError || MEMORY.test(text)) {
    return `There is not enough memory for this here: close other pages, or use a larger device (${text}).`;
  }
  return `It did not work: ${text}. Load the page again.`;
}
