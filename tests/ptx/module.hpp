// What a module of PTX is once it is read: kernels, whose instructions name registers and places by numbers.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ptx {

constexpr int LANES = 32;
using Mask = uint32_t;  // bit k: lane k of a warp takes part
constexpr Mask ALL = ~Mask(0);

// What ends a launch, or the reading of a module.
struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Warp;
struct Instruction;
using Operation = std::function<void(Warp&, const Instruction&, Mask)>;

enum class Flow { NEXT, BRANCH, BRANCH_INDEXED, EXIT, BARRIER, WARP_BARRIER, TRAP, CALL };
enum class Space { GENERIC, GLOBAL, SHARED, LOCAL, PARAM };

struct Instruction {
    Flow flow = Flow::NEXT;
    const Operation* operation = nullptr;
    int predicate = -1;
    bool negated = false;
    int n_results = 0;
    int n_operands = 0;
    std::array<int, 4> results{};    // registers
    std::array<int, 10> operands{};  // registers; numbers written in the source lie in registers of their own
    std::vector<int> targets;        // of a branch
    Space space = Space::GENERIC;
    int64_t offset = 0;  // added to the address, which is operand 0
    int bytes = 0;       // of one element in memory
    int elements = 1;
    bool extend_sign = false;
    bool transpose = false;  // ldmatrix
    std::string text;
};

// Registers whose values a launch sets: those the ISA calls special, and where dynamic shared memory begins.
enum Special {
    TID_X, TID_Y, TID_Z, NTID_X, NTID_Y, NTID_Z, CTAID_X, CTAID_Y, CTAID_Z, NCTAID_X, NCTAID_Y, NCTAID_Z,
    LANEID, WARPID, DYNAMIC_SMEM_SIZE, DYNAMIC_SHARED, N_SPECIAL
};

struct Parameter {
    size_t offset;
    size_t size;
};

struct Kernel {
    std::string name;
    std::vector<Instruction> code;
    int n_registers = N_SPECIAL;  // the first ones are the special ones
    std::vector<std::pair<int, uint64_t>> constants;  // register, value
    std::vector<Parameter> parameters;
    size_t parameter_bytes = 0;
    size_t local_bytes = 0;  // of a thread
    size_t static_shared = 0;
    size_t max_dynamic_shared = 48 * 1024;
    int max_threads = 1024;
};

struct Variable {
    std::vector<char> bytes;
    uint64_t address;
};

struct Module {
    std::map<std::string, std::unique_ptr<Kernel>> kernels;
    std::map<std::string, Variable> variables;  // in global memory

    ~Module();
};

std::unique_ptr<Module> read_module(const char* source);

}  // namespace ptx
