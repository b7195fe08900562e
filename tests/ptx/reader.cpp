#include "reader.hpp"

#include <algorithm>
#include <cstring>

#include "memory.hpp"

namespace ptx {
namespace {

size_t aligned(size_t place, size_t alignment) {
    return (place + alignment - 1) / alignment * alignment;
}

// Take a place of ``bytes`` behind ``end``.
size_t append(size_t& end, const Declaration& declared) {
    const size_t place = aligned(end, declared.alignment);
    end = place + declared.bytes();
    return place;
}

}  // namespace

void Reader::skip_braces() {
    int depth = 0;
    do {
        const std::string token = next();
        depth += token == "{" ? 1 : token == "}" ? -1 : 0;
    } while (depth);
}

Declaration Reader::declaration() {
    Declaration made;
    for (; now()[0] == '.'; next()) {
        if (now() == ".shared") made.space = Space::SHARED;
        else if (now() == ".local") made.space = Space::LOCAL;
        else if (now() == ".param") made.space = Space::PARAM;
        else if (now() == ".global" || now() == ".const") made.space = Space::GLOBAL;
        else if (now() == ".extern") made.external = true;
        else if (now() == ".align") made.alignment = number_of(tokens_.at(++at_));
        else if (size_of(now())) made.element = size_of(now());
        else if (now() != ".visible" && now() != ".weak" && now() != ".ptr") throw Fault("unknown directive " + now());
    }
    made.alignment = std::max(made.alignment, made.element);
    made.name = next();
    if (take("[")) {
        made.count = now() == "]" ? 0 : number_of(next());
        expect("]");
    }
    return made;
}

std::unique_ptr<Module> Reader::read() {
    static const std::set<std::string> header = {".version", ".target", ".address_size"};
    while (at_ < tokens_.size()) {
        if (header.count(now())) {
            at_ += 2;
            while (at_ < tokens_.size() && take(",")) at_++;
            continue;
        }
        const size_t begin = at_;
        while (now()[0] == '.' && now() != ".entry" && now() != ".func") next();
        if (take(".entry")) {
            entry();
        } else if (take(".func")) {  // calls are refused where they are reached
            while (now() != "{" && now() != ";") next();
            if (!take(";")) skip_braces();
        } else {
            at_ = begin;
            module_variable();
        }
    }
    return std::move(module_);
}

void Reader::module_variable() {
    const Declaration declared = declaration();
    if (declared.space == Space::SHARED) {
        places_.push_back({declared.name, declared.external ? 0 : append(module_shared_, declared), declared.external});
    } else if (declared.space == Space::GLOBAL) {
        Variable& made = module_->variables[declared.name];
        made.bytes.resize(declared.bytes() + declared.alignment);
        made.address = aligned(reinterpret_cast<uint64_t>(made.bytes.data()), declared.alignment);
        global_memory().add(made.address, declared.bytes());
        places_.push_back({declared.name, made.address, false});
        if (take("=")) initialize(declared, made.address);
    } else {
        throw Fault("what is " + declared.name + "?");
    }
    expect(";");
}

void Reader::initialize(const Declaration& declared, uint64_t address) {
    const bool several = take("{");
    for (size_t k = 0; k < declared.count; k++) {
        const bool negative = take("-");
        const uint64_t magnitude = number_of(next());
        const uint64_t value = negative ? -magnitude : magnitude;
        std::memcpy(reinterpret_cast<char*>(address) + k * declared.element, &value, declared.element);
        if (!several || !take(",")) break;
    }
    if (several) expect("}");
}

void Reader::entry() {
    kernel_ = std::make_unique<Kernel>();
    kernel_->name = next();
    kernel_->static_shared = module_shared_;
    constants_.clear();
    scopes_.assign(1, {});
    for (const auto& place : places_) scopes_[0][place.name] = place.dynamic ? DYNAMIC_SHARED : constant(place.address);
    labels_.clear();
    branch_targets_.clear();
    branches_.clear();
    call_parameters_.clear();
    nowhere_ = new_register();
    parameters();
    while (now() != "{") {
        if (take(".maxntid")) {
            kernel_->max_threads = number_of(next());
            while (take(",")) kernel_->max_threads *= number_of(next());
        } else if (take(".minnctapersm") || take(".maxnreg")) {
            next();
        } else {
            throw Fault("unknown directive " + now());
        }
    }
    body();
    finish();
}

void Reader::parameters() {
    if (!take("(")) return;
    while (!take(")")) {
        const Declaration declared = declaration();
        const size_t place = append(kernel_->parameter_bytes, declared);
        scopes_[0][declared.name] = constant(place);
        kernel_->parameters.push_back({place, declared.bytes()});
        take(",");
    }
}

void Reader::body() {
    expect("{");
    int depth = 1;
    while (depth) {
        if (take("{")) {
            scopes_.emplace_back();
            depth++;
        } else if (take("}")) {
            scopes_.pop_back();
            depth--;
        } else if (!take(";")) {
            statement();
        }
    }
}

void Reader::statement() {
    if (now()[0] == '.') return directive();
    if (tokens_.at(at_ + 1) == ":") {
        const std::string label = next();
        expect(":");
        if (take(".branchtargets")) {
            do branch_targets_[label].push_back(next());
            while (take(","));
            expect(";");
        } else {
            labels_[label] = kernel_->code.size();
        }
        return;
    }
    Tokens found;
    while (now() != ";") found.push_back(next());
    expect(";");
    try {
        instruction(found);
    } catch (const std::exception& error) {
        throw Fault("in \"" + joined(found) + "\": " + error.what());
    }
}

void Reader::directive() {
    if (take(".reg")) return registers();
    if (take(".pragma")) {
        next();
    } else {
        const Declaration declared = declaration();
        if (declared.space == Space::SHARED) {
            scopes_.back()[declared.name] = constant(append(kernel_->static_shared, declared));
        } else if (declared.space == Space::LOCAL) {
            scopes_.back()[declared.name] = constant(append(kernel_->local_bytes, declared));
        } else if (declared.space == Space::PARAM) {
            call_parameters_.insert(declared.name);
        } else {
            throw Fault("what is " + declared.name + "?");
        }
    }
    expect(";");
}

void Reader::registers() {  // .reg .b64 %rd<5>; or .reg .b16 low, high;
    next();
    do {
        const std::string name = next();
        if (take("<")) {
            const uint64_t count = number_of(next());
            for (uint64_t k = 0; k < count; k++) scopes_.back()[name + std::to_string(k)] = new_register();
            expect(">");
        } else {
            scopes_.back()[name] = new_register();
        }
    } while (take(","));
    expect(";");
}

void Reader::finish() {
    kernel_->local_bytes = aligned(kernel_->local_bytes, 16);
    for (const auto& [at, name] : branches_) {
        const auto several = branch_targets_.find(name);
        for (const auto& label : several == branch_targets_.end() ? Tokens{name} : several->second) {
            const auto found = labels_.find(label);
            if (found == labels_.end()) throw Fault("unknown label " + label);
            kernel_->code[at].targets.push_back(found->second);
        }
    }
    Instruction end;
    end.flow = Flow::EXIT;
    end.text = "the end of the kernel";
    kernel_->code.push_back(end);
    const std::string name = kernel_->name;
    module_->kernels[name] = std::move(kernel_);
}

Module::~Module() {
    for (const auto& [name, variable] : variables) global_memory().remove(variable.address);
}

std::unique_ptr<Module> read_module(const char* source) {
    return Reader(source).read();
}

}  // namespace ptx
