// The words of PTX: names and opcodes with their dots, numbers, and single characters between them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ptx {

using Tokens = std::vector<std::string>;

Tokens tokens_of(const char* source);
Tokens split(const std::string& text, char separator);
std::string joined(const Tokens& tokens);
const std::string& only(const Tokens& tokens);

bool is_number(const std::string& token);
uint64_t number_of(const std::string& token);
size_t size_of(const std::string& type);  // of "f32" or ".f32": 4; 0 if it is no type

// Operands between commas outside of all brackets.
std::vector<Tokens> separated(const Tokens& tokens);
// The operands of a group {a, b}, or the one that is no group.
bool is_group(const Tokens& tokens);
std::vector<Tokens> members(const Tokens& tokens);

}  // namespace ptx
