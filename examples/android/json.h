// Reads a manifest.json. An app takes the JSON library that it has anyway; this one spares the example a dependency.
#pragma once

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

// A value: a number, a text (escapes as they are written), a list, or an object (a list with names).
struct Json {
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

class JsonReader {
 public:
  // Throws std::runtime_error for what is no JSON.
  static Json read(const std::string& source) {
    JsonReader reader{source.c_str()};
    Json value = reader.value();
    if (reader.next() != '\0') reader.fail();
    return value;
  }

 private:
  explicit JsonReader(const char* at) : at_(at) {}

  [[noreturn]] static void fail() { throw std::runtime_error("it is no JSON"); }

  char next() {  // that is no space
    at_ += std::strspn(at_, " \t\r\n");
    return *at_;
  }

  bool take(char wanted) { return next() == wanted ? ++at_, true : false; }

  Json value() {
    Json made;
    if (next() == '"') {
      made.text = text();
    } else if (take('[')) {
      list(']', [&] { made.items.push_back(value()); });
    } else if (take('{')) {
      list('}', [&] {
        made.names.push_back(text());
        if (!take(':')) fail();
        made.items.push_back(value());
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
      if (*at_ == '\0') fail();
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
    char* end;
    made.number = std::strtod(at_, &end);
    if (end == at_) fail();
    at_ = end;
  }

  const char* at_;
};
