// Reads a manifest.json. An app takes the JSON library that it has anyway; this one spares the example a dependency.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

// A value: a number, a text (escapes as they are written), a list, an object (a list with names), or null, true, false.
struct Json {
  enum Kind { kNumber, kText, kList, kObject, kWord };

  Kind kind = kWord;
  double number = 0;
  std::string text;
  std::vector<std::string> names;
  std::vector<Json> items;

  const Json* find(const std::string& name) const {
    for (size_t i = 0; i < names.size(); ++i)
      if (names[i] == name) return &items[i];
    return nullptr;
  }

  // Throws std::runtime_error where there is no such entry.
  const Json& operator[](const std::string& name) const {
    if (const Json* found = find(name)) return *found;
    throw std::runtime_error("there is no \"" + name + "\" in it");
  }
};

// Strict, and within bounds: a manifest may come from a stranger.
class JsonReader {
 public:
  // Throws std::runtime_error for what is no JSON, nested too deep, or names a key twice.
  static Json read(const std::string& source) {
    if (source.find('\0') != std::string::npos) fail();
    JsonReader reader{source.c_str()};
    Json value = reader.value(0);
    if (reader.next() != '\0') reader.fail();
    return value;
  }

 private:
  static constexpr int kMostLevels = 64;

  explicit JsonReader(const char* at) : at_(at) {}

  [[noreturn]] static void fail() { throw std::runtime_error("it is no JSON"); }

  char next() {  // that is no space
    at_ += std::strspn(at_, " \t\r\n");
    return *at_;
  }

  bool take(char wanted) { return next() == wanted ? ++at_, true : false; }

  Json value(int level) {
    if (level > kMostLevels) throw std::runtime_error("it is nested too deep");
    Json made;
    if (next() == '"') {
      made.kind = Json::kText;
      made.text = text();
    } else if (take('[')) {
      made.kind = Json::kList;
      list(']', [&] { made.items.push_back(value(level + 1)); });
    } else if (take('{')) {
      made.kind = Json::kObject;
      list('}', [&] {
        made.names.push_back(text());
        for (size_t i = 0; i + 1 < made.names.size(); ++i)
          if (made.names[i] == made.names.back()) throw std::runtime_error("a key stands there twice");
        if (!take(':')) fail();
        made.items.push_back(value(level + 1));
      });
    } else {
      number_or_word(made);
    }
    return made;
  }

  template <class Item>
  void list(char end, Item item) {
    if (take(end)) return;
    do item();
    while (take(','));
    if (!take(end)) fail();
  }

  std::string text() {
    if (!take('"')) fail();
    const char* begin = at_;
    for (; *at_ != '"'; ++at_) {
      if (*at_ == '\\') ++at_;
      if (*at_ == '\0' || static_cast<unsigned char>(*at_) < ' ') fail();
    }
    return {begin, at_++};
  }

  void number_or_word(Json& made) {
    for (const char* word : {"null", "true", "false"})
      if (std::strncmp(at_, word, std::strlen(word)) == 0) {
        made.text.assign(word);
        at_ += std::strlen(word);
        return;
      }
    const size_t length = std::strspn(at_, "+-.0123456789eE");  // without strtod's nan, inf and 0x10
    const std::string digits(at_, length);
    char* end;
    made.kind = Json::kNumber;
    made.number = std::strtod(digits.c_str(), &end);
    if (digits.empty() || *end != '\0' || !std::isfinite(made.number)) fail();
    at_ += length;
  }

  const char* at_;
};
