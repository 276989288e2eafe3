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
const WORD_PART = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]"; // of a word that a token may not be a part of
const LETTERS = byteLetters();
const BYTES = new Map(LETTERS.map((letter, byte) => [letter, byte]));

/** Prompts -> token ids. */
export class Tokenizer {
  /**
   * @param vocabulary token -> id; a token that ends in `</w>` ends a word
   * @param merges pairs of tokens, "first second", the ones to merge first in front
   * @param padding the token after the end
   * @param special tokens that stand for themselves within a prompt -> {normalized: in upper and lower case alike;
   *   lstrip, rstrip: with the white space beside them; single_word: only where no letter, number or _ is beside them}
   */
  constructor({ vocabulary, merges, padding, special }) {
    this.ids = new Map(Object.entries(vocabulary));
    this.tokens = new Map([...this.ids].map(([token, id]) => [id, token]));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.padding = padding;
    const all = Object.entries(special).map(([token, rule]) => ({ ...rule, token, id: this.ids.get(token) }));
    this.exact = splitter(all.filter((rule) => !rule.normalized));
    this.anyCase = splitter(all.filter((rule) => rule.normalized).map((rule) => ({ ...rule, token: normal(rule.token) })));
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
    return this.exact(text, (part) => this.anyCase(normal(part), plain));
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

// (text, others) -> ids: those of the tokens, and what `others` gives for the texts between them. The longest token wins.
function splitter(rules) {
  const ids = new Map(rules.map(({ token, id }) => [token, id]));
  const sorted = [...rules].sort((a, b) => b.token.length - a.token.length);
  const found = new RegExp(sorted.map(pattern).join("|") || "(?!)", "gu");
  return (text, others) => {
    const all = [];
    let end = 0;
    for (const match of text.matchAll(found)) {
      all.push(...others(text.slice(end, match.index)), ids.get(match.slice(1).find((token) => token !== undefined)));
      end = match.index + match[0].length;
    }
    return [...all, ...others(text.slice(end))];
  };
}

function pattern({ token, lstrip, rstrip, single_word }) {
  const escaped = token.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  const [before, after] = single_word ? [`(?<!${WORD_PART})`, `(?!${WORD_PART})`] : ["", ""];
  return `${lstrip ? "\\s*" : ""}${before}(${escaped})${after}${rstrip ? "\\s*" : ""}`;
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
