package codi.core

private const val MAX_DEPTH = 64

/** JSON, read strictly: Map, List, String, Double, Boolean or null. No key stands twice, and nothing follows the value. */
fun parseJson(text: String): Any? = JsonReader(text).document()

class JsonError(message: String) : Exception(message)

private class JsonReader(private val text: String) {
    private var at = 0

    fun document(): Any? {
        val value = value(0)
        skipSpace()
        if (at < text.length) fail("something follows its end")
        return value
    }

    private fun value(depth: Int): Any? {
        if (depth > MAX_DEPTH) fail("it is nested too deeply")
        skipSpace()
        return when (peek()) {
            '{' -> members(depth)
            '[' -> items(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun members(depth: Int): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        sequence('{', '}') {
            val name = string()
            skipSpace()
            expect(':')
            if (name in found) fail("\"$name\" stands twice")
            found[name] = value(depth + 1)
        }
        return found
    }

    private fun items(depth: Int): List<Any?> {
        val found = ArrayList<Any?>()
        sequence('[', ']') { found.add(value(depth + 1)) }
        return found
    }

    private fun sequence(first: Char, last: Char, read: () -> Unit) {
        expect(first)
        skipSpace()
        if (peek() == last) {
            at++
            return
        }
        while (true) {
            skipSpace()
            read()
            skipSpace()
            if (peek() == last) break
            expect(',')
        }
        at++
    }

    private fun string(): String {
        expect('"')
        val found = StringBuilder()
        while (true) {
            val char = next()
            when {
                char == '"' -> return found.toString()
                char < ' ' -> fail("a text holds a control character")
                char == '\\' -> found.append(escaped(next()))
                else -> found.append(char)
            }
        }
    }

    private fun escaped(char: Char): Char = when (char) {
        '"', '\\', '/' -> char
        'b' -> '\b'
        'f' -> '\u000c'
        'n' -> '\n'
        'r' -> '\r'
        't' -> '\t'
        'u' -> text.substring(at, minOf(at + 4, text.length)).also { at += 4 }.takeIf { it.length == 4 }
            ?.toIntOrNull(16)?.toChar() ?: fail("an escape is cut off")
        else -> fail("it has an unknown escape")
    }

    private fun number(): Double {
        val found = NUMBER.matchAt(text, at)?.value ?: fail("there is no value")
        at += found.length
        return found.toDouble()
    }

    private fun <T> word(name: String, value: T): T {
        if (!text.startsWith(name, at)) fail("there is no value")
        at += name.length
        return value
    }

    private fun skipSpace() {
        while (at < text.length && text[at] in " \t\r\n") at++
    }

    private fun peek(): Char = text.getOrElse(at) { fail("it is cut off") }

    private fun next(): Char = peek().also { at++ }

    private fun expect(char: Char) {
        if (next() != char) fail("'$char' is missing")
    }

    private fun fail(what: String): Nothing = throw JsonError("no JSON at character $at: $what")
}

private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
