// Reads PTX as NVIDIA's linker writes it. What it does not know it refuses: nothing is passed over that could matter.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "module.hpp"
#include "tokens.hpp"

namespace ptx {

struct Declaration {  // of a variable: .shared .align 16 .b8 name[1024]
    Space space = Space::GENERIC;
    bool external = false;
    size_t element = 0;
    size_t alignment = 1;
    size_t count = 1;
    std::string name;

    size_t bytes() const { return element * count; }
};

struct Place {  // of a variable that the whole module sees
    std::string name;
    uint64_t address;
    bool dynamic;  // shared memory behind all that is declared with its size: a launch says where
};

struct Opcode {  // ld.global.f32
    Tokens parts;

    const std::string& base() const { return parts.front(); }
    const std::string& type() const { return parts.back(); }
    bool has(const char* part) const { return std::find(parts.begin(), parts.end(), part) != parts.end(); }
};

class Reader {
  public:
    explicit Reader(const char* source) : tokens_(tokens_of(source)) {}

    std::unique_ptr<Module> read();

  private:
    const std::string& now() const {
        if (at_ >= tokens_.size()) throw Fault("the source ends too early");
        return tokens_[at_];
    }
    std::string next() {
        const std::string token = now();
        at_++;
        return token;
    }
    bool take(const char* token) {
        const bool found = now() == token;
        at_ += found;
        return found;
    }
    void expect(const char* token) {
        if (!take(token)) throw Fault("expected " + std::string(token) + ", got " + now());
    }
    void skip_braces();

    Declaration declaration();
    void module_variable();
    void initialize(const Declaration& declared, uint64_t address);
    void entry();
    void parameters();
    void body();
    void registers();
    void statement();
    void directive();
    void instruction(const Tokens& tokens);
    bool control_flow(Instruction& made, const Opcode& opcode, const std::vector<Tokens>& written);
    void memory_access(Instruction& made, const Opcode& opcode, const std::vector<Tokens>& written);
    void operation(Instruction& made, const Opcode& opcode, const std::vector<Tokens>& written);
    void finish();

    int new_register() { return kernel_->n_registers++; }
    int constant(uint64_t value);
    int find_register(const std::string& name) const;
    int operand(const Tokens& tokens);
    void add_operand(Instruction& made, const Tokens& tokens);
    void add_result(Instruction& made, const Tokens& tokens);
    void address(Instruction& made, const Tokens& tokens);

    Tokens tokens_;
    size_t at_ = 0;
    std::unique_ptr<Module> module_ = std::make_unique<Module>();
    size_t module_shared_ = 0;
    std::vector<Place> places_;

    // Of the kernel that is read:
    std::unique_ptr<Kernel> kernel_;
    std::vector<std::map<std::string, int>> scopes_;  // registers by name; those of variables hold their addresses
    std::map<uint64_t, int> constants_;
    int nowhere_ = 0;  // takes results that are written as _
    std::map<std::string, int> labels_;
    std::map<std::string, Tokens> branch_targets_;
    std::vector<std::pair<size_t, std::string>> branches_;
    std::set<std::string> call_parameters_;
};

}  // namespace ptx
