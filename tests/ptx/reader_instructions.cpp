// Of the reader, what makes an instruction of a statement.
#include <algorithm>
#include <cstring>

#include "operations.hpp"
#include "reader.hpp"

namespace ptx {
namespace {

const std::map<std::string, Special> SPECIAL = {
    {"%tid.x", TID_X}, {"%tid.y", TID_Y}, {"%tid.z", TID_Z},
    {"%ntid.x", NTID_X}, {"%ntid.y", NTID_Y}, {"%ntid.z", NTID_Z},
    {"%ctaid.x", CTAID_X}, {"%ctaid.y", CTAID_Y}, {"%ctaid.z", CTAID_Z},
    {"%nctaid.x", NCTAID_X}, {"%nctaid.y", NCTAID_Y}, {"%nctaid.z", NCTAID_Z},
    {"%laneid", LANEID}, {"%warpid", WARPID}, {"%dynamic_smem_size", DYNAMIC_SMEM_SIZE},
};

// Modifiers that say how far an effect is seen, or what all lanes do: here memory has one order, and lanes are counted.
const std::set<std::string> WITHOUT_EFFECT = {"uni", "volatile", "relaxed", "cta", "gpu", "sys", "global", "shared"};

// The name in the table of operations.
std::string name_of(const Opcode& opcode, const std::vector<Tokens>& written) {
    const std::string& base = opcode.base();
    if (base == "cvta") return opcode.has("to") ? "cvta.to" : "cvta";
    if (base == "mov" && is_group(written.at(0)))
        return "unpack" + std::to_string(members(written[0]).size()) + "." + opcode.type();
    if (base == "mov" && is_group(written.at(1)))
        return "pack" + std::to_string(members(written[1]).size()) + "." + opcode.type();
    std::string name = base == "red" ? "atom" : base;
    for (size_t k = 1; k < opcode.parts.size(); k++) {
        if (!WITHOUT_EFFECT.count(opcode.parts[k])) name += "." + opcode.parts[k];
    }
    return name;
}

}  // namespace

int Reader::constant(uint64_t value) {
    const auto [found, is_new] = constants_.try_emplace(value, kernel_->n_registers);
    if (is_new) kernel_->constants.emplace_back(new_register(), value);
    return found->second;
}

int Reader::find_register(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
        const auto found = scope->find(name);
        if (found != scope->end()) return found->second;
    }
    return -1;
}

int Reader::operand(const Tokens& tokens) {
    if (tokens.size() == 2 && tokens[0] == "-") return constant(-number_of(tokens[1]));
    const std::string& name = only(tokens);
    if (name == "_") return nowhere_;
    if (name == "WARP_SZ") return constant(LANES);
    if (is_number(name)) return constant(number_of(name));
    const int found = find_register(name);
    if (found >= 0) return found;
    const auto special = SPECIAL.find(name);
    if (special != SPECIAL.end()) return special->second;
    throw Fault("unknown operand " + name);
}

void Reader::add_operand(Instruction& made, const Tokens& tokens) {
    for (const auto& member : members(tokens)) made.operands.at(made.n_operands++) = operand(member);
}

void Reader::add_result(Instruction& made, const Tokens& tokens) {
    const auto bar = std::find(tokens.begin(), tokens.end(), "|");  // shfl: value|predicate
    if (bar != tokens.end()) {
        add_result(made, Tokens(tokens.begin(), bar));
        add_result(made, Tokens(bar + 1, tokens.end()));
        return;
    }
    for (const auto& member : members(tokens)) made.results.at(made.n_results++) = operand(member);
}

void Reader::address(Instruction& made, const Tokens& tokens) {  // [base], [base+4], [base+-4]
    if (tokens.size() < 3 || tokens[0] != "[") throw Fault("not an address: " + joined(tokens));
    made.operands.at(made.n_operands++) = operand({tokens[1]});
    size_t k = 2;
    if (tokens[k] == "+") k++;
    const bool negative = tokens.at(k) == "-";
    k += negative;
    if (tokens.at(k) != "]") made.offset = number_of(tokens[k]);
    if (negative) made.offset = -made.offset;
}

void Reader::memory_access(Instruction& made, const Opcode& opcode, const std::vector<Tokens>& written) {
    const bool store = opcode.base() == "st";
    const Tokens& place = written.at(store ? 0 : 1);
    if (made.space == Space::PARAM && call_parameters_.count(place.at(1))) {  // what a call is given, or gives back
        made.flow = Flow::CALL;
        return;
    }
    if (!made.bytes) throw Fault("unknown type " + opcode.type());
    made.extend_sign = opcode.type()[0] == 's';
    address(made, place);
    if (store) add_operand(made, written[1]);
    else add_result(made, written[0]);
    made.elements = store ? made.n_operands - 1 : made.n_results;
    made.operation = &operations().at(store ? "st" : "ld");
}

// Whether it is a branch, a barrier or an end.
bool Reader::control_flow(Instruction& made, const Opcode& opcode, const std::vector<Tokens>& written) {
    const std::string& base = opcode.base();
    if (base == "bra") {
        made.flow = Flow::BRANCH;
        branches_.emplace_back(kernel_->code.size(), only(written.at(0)));
    } else if (base == "brx") {
        made.flow = Flow::BRANCH_INDEXED;
        add_operand(made, written.at(0));
        branches_.emplace_back(kernel_->code.size(), only(written.at(1)));
    } else if (base == "ret" || base == "exit") {
        made.flow = Flow::EXIT;
    } else if (base == "trap") {
        made.flow = Flow::TRAP;
    } else if (base == "call") {
        made.flow = Flow::CALL;
    } else if (base == "bar" || base == "barrier") {
        made.flow = opcode.has("warp") ? Flow::WARP_BARRIER : Flow::BARRIER;
        add_operand(made, written.at(0));
        if (written.size() > 1 || !opcode.has("sync")) throw Fault("barriers of some threads are not interpreted");
    } else {
        return false;
    }
    return true;
}

void Reader::operation(Instruction& made, const Opcode& opcode, const std::vector<Tokens>& written) {
    const std::string& base = opcode.base();
    const std::string name = name_of(opcode, written);
    const auto found = operations().find(name);
    if (found == operations().end()) throw Fault("unknown instruction " + name);
    made.operation = &found->second;
    if (base == "membar" || base == "fence") return;
    size_t k = 0;
    if (base == "red") add_result(made, {"_"});
    else add_result(made, written.at(k++));
    if (made.n_results > 1 && base == "setp") throw Fault("two results are not interpreted");
    for (; k < written.size(); k++) {
        if (written[k].at(0) == "[") address(made, written[k]);
        else add_operand(made, written[k]);
    }
}

void Reader::instruction(const Tokens& tokens) {
    Instruction made;
    made.text = joined(tokens);
    size_t k = 0;
    if (tokens[0] == "@") {
        made.negated = tokens.at(1) == "!";
        k = made.negated ? 3 : 2;
        made.predicate = find_register(tokens.at(k - 1));
        if (made.predicate < 0) throw Fault("unknown predicate");
    }
    const Opcode opcode{split(tokens.at(k), '.')};
    const auto written = separated(Tokens(tokens.begin() + k + 1, tokens.end()));
    made.bytes = size_of(opcode.type());
    made.transpose = opcode.has("trans");
    if (opcode.has("global") || opcode.has("const")) made.space = Space::GLOBAL;
    else if (opcode.has("shared")) made.space = Space::SHARED;
    else if (opcode.has("local")) made.space = Space::LOCAL;
    else if (opcode.has("param")) made.space = Space::PARAM;
    if (!control_flow(made, opcode, written)) {
        const std::string& base = opcode.base();
        if (base == "ld" || base == "ldu" || base == "st") memory_access(made, opcode, written);
        else operation(made, opcode, written);
    }
    kernel_->code.push_back(std::move(made));
}

}  // namespace ptx
