#include "tokens.hpp"

#include <cctype>
#include <cstring>

#include "module.hpp"

namespace ptx {
namespace {

bool in_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || std::strchr("_$%.", c) != nullptr;
}

bool is_float(const std::string& token) {  // 0f3F800000, 0d3FF0000000000000
    return token.size() > 2 && token[0] == '0' && std::strchr("fFdD", token[1]) != nullptr;
}

}  // namespace

Tokens tokens_of(const char* p) {
    Tokens found;
    while (*p) {
        if (p[0] == '/' && p[1] == '/') {
            while (*p && *p != '\n') p++;
        } else if (p[0] == '/' && p[1] == '*') {
            const char* end = std::strstr(p, "*/");
            if (!end) throw Fault("a comment does not end");
            p = end + 2;
        } else if (*p == '"') {
            const char* end = std::strchr(p + 1, '"');
            if (!end) throw Fault("a string does not end");
            found.emplace_back(p, end + 1);
            p = end + 1;
        } else if (std::isspace(static_cast<unsigned char>(*p))) {
            p++;
        } else if (in_word(*p)) {
            const char* begin = p;
            while (*p && in_word(*p)) p++;
            found.emplace_back(begin, p);
        } else {
            found.emplace_back(1, *p++);
        }
    }
    return found;
}

Tokens split(const std::string& text, char separator) {
    Tokens parts(1);
    for (char c : text) {
        if (c == separator) parts.emplace_back();
        else parts.back() += c;
    }
    return parts;
}

std::string joined(const Tokens& tokens) {
    std::string text;
    for (const auto& token : tokens) {
        if (!text.empty() && in_word(text.back()) && in_word(token[0])) text += ' ';
        text += token;
        if (token == ",") text += ' ';
    }
    return text;
}

bool is_number(const std::string& token) {
    return std::isdigit(static_cast<unsigned char>(token[0]));
}

uint64_t number_of(const std::string& token) {
    if (!is_number(token)) throw Fault("a number was expected, got " + token);
    return is_float(token) ? std::stoull(token.substr(2), nullptr, 16) : std::stoull(token, nullptr, 0);
}

size_t size_of(const std::string& type) {
    const std::string name = type[0] == '.' ? type.substr(1) : type;
    if (name.size() < 2 || std::strchr("bfsu", name[0]) == nullptr) return 0;
    const std::string bits = name.substr(1);
    return bits == "8" ? 1 : bits == "16" ? 2 : bits == "32" ? 4 : bits == "64" ? 8 : 0;
}

const std::string& only(const Tokens& tokens) {
    if (tokens.size() != 1) throw Fault("unexpected operand " + joined(tokens));
    return tokens[0];
}

std::vector<Tokens> separated(const Tokens& tokens) {
    std::vector<Tokens> found(1);
    int depth = 0;
    for (const auto& token : tokens) {
        depth += token == "[" || token == "{" || token == "(";
        depth -= token == "]" || token == "}" || token == ")";
        if (token == "," && !depth) found.emplace_back();
        else found.back().push_back(token);
    }
    return found;
}

bool is_group(const Tokens& tokens) {
    return tokens[0] == "{";
}

std::vector<Tokens> members(const Tokens& tokens) {
    if (!is_group(tokens)) return {tokens};
    return separated(Tokens(tokens.begin() + 1, tokens.end() - 1));
}

}  // namespace ptx
