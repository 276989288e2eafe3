// CLIP's tokenizer: codi_tf.checkpoints.tokenizer, with the browser's Unicode tables.

import { PageError } from "errors";

const LENGTH = 77;
const LONGEST = 10_000; // characters of a prompt that are encoded
const START = "<|startoftext|>";
const END = "<|endoftext|>";
const WORD_END = "</w>";
const WORD = "'(?:s|t|re|ve|m|ll|d)|\\p{L}+|\\p{N}|[^\\p{L}\\p{N} ]+";
const WORDS = new RegExp(WORD, "gu");
const PIECES = new RegExp(`<\\|(?:start|end)oftext\\|>|${WORD}`, "gu");
const LETTERS = byteLetters();
const BYTES = new Map(LETTERS.map((letter, byte) => [letter, byte]));

/** Prompts -> token ids. */
export class Tokenizer {
  /**
   * @param vocabulary token -> id; a token that ends in `</w>` ends a word
   * @param merges pairs of tokens, "first second", the ones to merge first in front
   * @param padding the token after the end
   * @param special tokens that stand for themselves within a prompt -> whether in upper and lower case alike
   */
  constructor({ vocabulary, merges, padding, special }) {
    this.ids = new Map(Object.entries(vocabulary));
    this.tokens = new Map([...this.ids].map(([token, id]) => [id, token]));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.padding = padding;
    this.special = new Map(Object.entries(special));
    [this.exact, this.anyCase] = [false, true].map((any) =>
      splitter([...this.special.keys()].filter((token) => this.special.get(token) === any)));
  }

  /** {ids: Int32Array of start, at most 75 tokens, end and padding; cut: the text that did not fit}. */
  read(prompt) {
    const ids = this.encode(beginning(prompt));
    const fitting = ids.splice(0, LENGTH - 2);
    const row = new Int32Array(LENGTH).fill(this.ids.get(this.padding));
    row.set([this.ids.get(START), ...fitting, this.ids.get(END)]);
    return { ids: row, cut: this.decode(ids) };
  }

  /** The ids of a text of any length, without start, end and padding. */
  encode(text) {
    if (/\p{Surrogate}/u.test(text)) throw new PageError("The prompt holds half of a character: type it again.");
    const plain = (piece) => wordsOf(piece).flatMap((word) => this.wordIds(word));
    const inAnyCase = (piece) => (this.special.get(piece) === true ? this.ids.get(piece) : plain(piece));
    const written = (part) =>
      this.special.get(part) === false ? this.ids.get(part) : normal(part).split(this.anyCase).flatMap(inAnyCase);
    return text.split(this.exact).flatMap(written);
  }

  /** The text of ids, in lower case, with a space after each word. */
  decode(ids) {
    const text = ids.map((id) => this.tokens.get(id)).join("").replaceAll(WORD_END, " ");
    const bytes = [...text].flatMap((c) => BYTES.get(c) ?? [...new TextEncoder().encode(c)]);
    return new TextDecoder().decode(Uint8Array.from(bytes)).trim();
  }

  wordIds(word) {
    const letters = Array.from(new TextEncoder().encode(word), (byte) => LETTERS[byte]);
    letters.push(letters.pop() + WORD_END);
    return this.merged(letters).map((token) => this.ids.get(token) ?? this.ids.get(END));
  }

  // The pair of lowest rank is merged wherever it stands, from left to right, until none is left.
  merged(tokens) {
    for (;;) {
      const ranks = tokens.slice(1).map((second, i) => this.ranks.get(`${tokens[i]} ${second}`) ?? Infinity);
      const best = ranks.reduce((a, b) => Math.min(a, b), Infinity);
      if (best === Infinity) return tokens;
      const joined = [];
      for (let i = 0; i < tokens.length; i++) joined.push(ranks[i] === best ? tokens[i] + tokens[++i] : tokens[i]);
      tokens = joined;
    }
  }
}

// What `split` needs to put every one of the tokens into a part of its own.
function splitter(tokens) {
  const escaped = tokens.map((token) => token.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return new RegExp(`(${escaped.sort((a, b) => b.length - a.length).join("|") || "(?!)"})`);
}

// As much of a prompt as 75 tokens can hold.
function beginning(prompt) {
  const characters = Array.from(prompt);
  return characters.length <= LONGEST ? prompt : Array.from(normal(prompt).trim()).slice(0, LONGEST).join("");
}

function normal(text) {
  const spaced = text.normalize("NFC").replace(/\p{White_Space}+/gu, " ");
  return Array.from(spaced, (c) => c.toLowerCase()).join(""); // one by one: a sigma at a word's end is no special case
}

// Contractions, runs of letters, single numbers, runs of anything else. The text of a start or end that was not taken
// for one is a piece of its own.
function wordsOf(text) {
  return (text.match(PIECES) ?? []).flatMap((piece) => piece.match(WORDS));
}

// A printable character for each byte: itself, or one from U+0100 on for those that are blank or control bytes.
function byteLetters() {
  let next = 0x100;
  const printable = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
}
