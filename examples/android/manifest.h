// What a manifest.json may hold, before any of it is used: the rules of export/package/schema.py, for a package of
// parts at one size. A package may come from a stranger: no number of it is believed, and no name leads out of it.
#pragma once

#include <cmath>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.h"
#include "sha256.h"

class Manifest {
 public:
  // Throws std::runtime_error, with what is wrong, for a manifest that cannot be run.
  static void check(const Json& manifest) {
    need(manifest.kind == Json::kObject && is_text(manifest, "kind") && manifest["kind"].text == "codi_tf sampler",
         "it is no package's");
    need(whole(manifest["version"], 2, 3), "it is of another version");
    const double steps = manifest["steps"].number;
    need(whole(manifest["steps"], 1, 16), "steps is no whole number from 1 to 16");
    const Json& schedule = manifest["schedule"];
    need(schedule.kind == Json::kList && double(schedule.items.size()) == steps, "schedule is not that of steps");
    for (const Json& now : schedule.items) {
      need(now.kind == Json::kObject && whole(now["t"], 0, 1e6) && is_number(now["a"]) && is_number(now["b"]),
           "schedule: t, a and b are no numbers");
      const Json& time = now["time"];
      need(time.kind == Json::kList && !time.items.empty() &&
               time.items.size() == schedule.items[0]["time"].items.size(),
           "schedule: the times are no lists of one length");
      for (const Json& number : time.items) need(is_number(number), "schedule: time is no list of numbers");
    }
    need(manifest["task"].kind == Json::kObject && is_text(manifest["task"], "name"), "task has no name");
    need(is_text(manifest, "format"), "format is no text");
    if (const Json* layout = manifest.find("layout"))
      need(layout->kind == Json::kText && (layout->text == "whole" || layout->text == "parts"),
           "layout is neither whole nor parts");

    const Json& size = manifest["image_size"];
    need(size.kind == Json::kList && size.items.size() == 2 && whole(size.items[0], 1, 8192) &&
             whole(size.items[1], 1, 8192),
         "image_size is not two whole numbers up to 8192");
    const double height = size.items[0].number, width = size.items[1].number;
    const std::vector<double> condition = tensor(manifest["inputs"]["condition"]),
                              noise = tensor(manifest["inputs"]["noise"]);
    need(condition == std::vector<double>{1, height, width, 3} || condition == std::vector<double>{1, height, width, 4},
         "inputs: the condition is not of image_size");
    need(noise.size() == 4 && noise[0] == 1, "inputs: the noise is not [1, h, w, C]");
    const double factor = std::floor(height / noise[1]);
    need(factor >= 1 && factor * noise[1] == height && factor * noise[2] == width,
         "inputs: the noise is not of image_size");
    if (const Json* ids = manifest["inputs"].find("ids")) need(tensor(*ids).size() == 1, "inputs: ids is not [n]");
    if (const Json* outputs = manifest.find("outputs"))
      need(tensor((*outputs)["image"]) == std::vector<double>{1, height, width, 3},
           "outputs: the image has another size");

    const double times = double(schedule.items[0]["time"].items.size());
    check_graphs(manifest,
                 {{"condition", condition}, {"noise", noise}, {"z", noise}, {"z_next", noise}, {"time", {times}},
                  {"scales", {2}}, {"image", {1, height, width, 3}}});
  }

  // Throws std::runtime_error for a file of a graph that is missing, changed, or not in the package's folder.
  static void check_files(const std::string& package, const Json& manifest) {
    namespace fs = std::filesystem;
    for (const Json& graph : manifest["graphs"].items) {
      const std::string& name = graph["file"].text;
      const fs::path path = fs::path(package) / name;
      std::error_code failed;
      const fs::path root = fs::canonical(package, failed), there = fs::canonical(path, failed);
      if (failed) throw std::runtime_error(path.string() + ": is missing; copy the whole package again");
      const std::string relative = there.lexically_relative(root).generic_string();
      if (relative.compare(0, 2, "..") == 0 || !fs::is_regular_file(there))
        throw std::runtime_error(path.string() + ": is no file of the package; put the file itself there");
      if (Sha256::of_file(path.string()) != manifest["files"][name].text)
        throw std::runtime_error(path.string() + ": is damaged or changed (SHA-256); copy the package or export again");
    }
  }

 private:
  struct Known {
    const char* name;
    std::vector<double> shape;
  };

  static void need(bool fine, const char* what) {
    if (!fine) throw std::runtime_error(what);
  }

  static bool is_number(const Json& value) { return value.kind == Json::kNumber && std::abs(value.number) <= 1e9; }

  static bool is_text(const Json& object, const char* name) {
    const Json& value = object[name];
    return value.kind == Json::kText && value.text.size() <= 1024;
  }

  static bool whole(const Json& value, double least, double most) {
    return value.kind == Json::kNumber && value.number == std::floor(value.number) && least <= value.number &&
           value.number <= most;
  }

  // The shape of {"shape": [...], "dtype": ...}.
  static std::vector<double> tensor(const Json& described) {
    need(described.kind == Json::kObject, "a tensor is no object");
    const Json& shape = described["shape"];
    need(shape.kind == Json::kList && shape.items.size() <= 8, "a tensor's shape is no list of up to 8");
    std::vector<double> made;
    double numbers = 1;
    for (const Json& side : shape.items) {
      need(whole(side, 1, 2147483648.0), "a tensor's shape holds what is no size");
      made.push_back(side.number);
      numbers *= side.number;
    }
    need(numbers <= 2147483648.0, "a tensor is too large");
    if (const Json* dtype = described.find("dtype"))
      need(dtype->kind == Json::kText && (dtype->text == "float32" || dtype->text == "int32"), "a tensor has no dtype");
    return made;
  }

  // Whether a text names a file below a folder: "a.bin", "a/b.bin". What would be an escape in JSON is none.
  static bool is_name(const std::string& name) {
    size_t begin = 0, parts = 0;
    for (size_t end = 0; end != std::string::npos; begin = end + 1) {
      end = name.find('/', begin);
      const std::string part = name.substr(begin, end == std::string::npos ? end : end - begin);
      if (part.empty() || part.size() > 255 || part == "." || part == ".." || ++parts > 16) return false;
      for (const char c : part)
        if (static_cast<unsigned char>(c) < ' ' || c == '\x7f' || std::strchr("\\:*?\"<>|%#", c)) return false;
    }
    return true;
  }

  static bool is_sha256(const Json& value) {
    return value.kind == Json::kText && value.text.size() == 64 &&
           value.text.find_first_not_of("0123456789abcdef") == std::string::npos;
  }

  static void check_tensors(const Json& tensors, std::initializer_list<Known> known) {
    need(tensors.kind == Json::kObject, "the tensors of a graph are no object");
    for (size_t i = 0; i < tensors.items.size(); ++i) {
      const std::vector<double> shape = tensor(tensors.items[i]);
      for (const Known& one : known)
        need(tensors.names[i] != one.name || shape == one.shape, "a tensor of a graph has another shape");
    }
  }

  static void check_graphs(const Json& manifest, std::initializer_list<Known> known) {
    const Json &graphs = manifest["graphs"], &files = manifest["files"];
    need(graphs.kind == Json::kObject && files.kind == Json::kObject && !files.items.empty(),
         "graphs or files is no object");
    for (size_t i = 0; i < files.items.size(); ++i)
      need(is_name(files.names[i]) && is_sha256(files.items[i]), "files names what is no file in its folder");
    bool runs = graphs.find("sampler") ? graphs.items.size() == 1 : graphs.find("decoder") != nullptr;
    const bool first = graphs.find("step_1"), second = graphs.find("step_2"), one = graphs.find("step");
    if (!graphs.find("sampler")) runs = runs && first == second && one != first;
    for (const std::string& name : graphs.names) {
      bool is_known = false;
      for (const char* part : {"sampler", "text", "encoder", "step", "step_1", "step_2", "decoder"})
        is_known = is_known || name == part;
      runs = runs && is_known;
    }
    need(runs, "graphs are neither sampler nor the parts of one");
    for (const Json& graph : graphs.items) {
      need(graph.kind == Json::kObject && is_text(graph, "file"), "a graph has no file");
      const std::string& file = graph["file"].text;
      const std::string suffix = "." + manifest["format"].text;
      need(is_name(file) && file.size() > suffix.size() &&
               file.compare(file.size() - suffix.size(), suffix.size(), suffix) == 0 && files.find(file),
           "a graph names what is no file of the package");
      const Json& inputs = graph["inputs"];
      need(inputs.kind == Json::kObject && !inputs.items.empty(), "a graph has no inputs");
      check_tensors(inputs, known);
      if (const Json* outputs = graph.find("outputs")) check_tensors(*outputs, known);
    }
  }
};
