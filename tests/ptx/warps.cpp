// What the lanes of a warp do together: shuffles, votes, products of matrices and the loads of their fragments.
#include <vector>

#include "memory.hpp"
#include "numbers.hpp"
#include "operations.hpp"

namespace ptx {
namespace {

// All lanes that the mask names, unless they have returned, must be here, and each lane here must be named.
void check_members(const Warp& warp, const Instruction& instruction, Mask active, int mask_operand) {
    for_each_lane(active, [&](int lane) {
        const Mask members = get<Mask>(warp, instruction.operands[mask_operand], lane);
        if (!(members >> lane & 1)) report(warp, instruction, "a lane is not in its own mask");
        if (members & warp.alive & ~active) report(warp, instruction, "lanes of the mask are elsewhere");
    });
}

void check_all(const Warp& warp, const Instruction& instruction, Mask active) {
    if (active != ALL) stop(warp, instruction, "not all lanes of a warp are here");
}

enum class Shuffle { IDX, UP, DOWN, BFLY };

// shfl.sync d|p, a, b, c, membermask: c holds the mask of a segment and the last lane of it that may be read.
template <Shuffle MODE>
void shuffle(Warp& warp, const Instruction& instruction, Mask active) {
    check_members(warp, instruction, active, 3);
    std::array<uint32_t, LANES> values;
    for (int lane = 0; lane < LANES; lane++) values[lane] = get<uint32_t>(warp, instruction.operands[0], lane);
    for_each_lane(active, [&](int lane) {
        const int b = get<uint32_t>(warp, instruction.operands[1], lane) & 31;
        const uint32_t c = get<uint32_t>(warp, instruction.operands[2], lane);
        const int segment = c >> 8 & 31;
        const int first = lane & segment;
        const int limit = first | (c & 31 & ~segment);
        int source = MODE == Shuffle::IDX    ? first | (b & ~segment)
                     : MODE == Shuffle::UP   ? lane - b
                     : MODE == Shuffle::DOWN ? lane + b
                                             : lane ^ b;
        const bool inside = MODE == Shuffle::UP ? source >= limit : source <= limit;
        if (!inside) source = lane;
        if (!(active >> source & 1)) report(warp, instruction, "the value of a lane that is not here");
        put(warp, instruction.results[0], lane, values[source]);
        if (instruction.n_results > 1) put(warp, instruction.results[1], lane, inside);
    });
}

Mask votes(const Warp& warp, const Instruction& instruction, Mask active) {
    check_members(warp, instruction, active, 1);
    Mask found = 0;
    for_each_lane(active, [&](int lane) { found |= Mask(get<bool>(warp, instruction.operands[0], lane)) << lane; });
    return found;
}

template <class T, class F>
Operation vote(F f) {
    return [f](Warp& warp, const Instruction& instruction, Mask active) {
        const Mask found = votes(warp, instruction, active);
        for_each_lane(active, [&](int lane) { put<T>(warp, instruction.results[0], lane, f(found, active)); });
    };
}

void active_mask(Warp& warp, const Instruction& instruction, Mask active) {
    for_each_lane(active, [&](int lane) { put(warp, instruction.results[0], lane, active); });
}

// Where a warp holds the elements of a matrix: value v of a lane is the element at
//     first * (lane % 4) + second * (lane / 4) + the sum of values[k] over the bits k that are set in v,
// with elements counted down the columns. These are the figures of the ISA ("Matrix fragments for mma.m16n8k16" and
// "... m16n8k8") as strides, in the manner of CuTe's layouts of threads and values. B is laid out as n x k.
struct Layout {
    int rows;
    int first;
    int second;
    std::vector<int> values;

    int n_values() const { return 1 << values.size(); }
    int element(int lane, int value) const {
        int place = first * (lane % 4) + second * (lane / 4);
        for (size_t k = 0; k < values.size(); k++) place += (value >> k & 1) * values[k];
        return place;
    }
    int row(int lane, int value) const { return element(lane, value) % rows; }
    int column(int lane, int value) const { return element(lane, value) / rows; }
};

const Layout SUMS{16, 32, 1, {16, 8}};               // 16 x 8
const Layout A_OF_16_BITS{16, 32, 1, {16, 8, 128}};  // 16 x 16, two values in a register
const Layout B_OF_16_BITS{8, 16, 1, {8, 64}};        // 8 x 16
const Layout A_OF_TF32{16, 16, 1, {8, 64}};          // 16 x 8
const Layout B_OF_TF32{8, 8, 1, {32}};               // 8 x 8

// A product of matrices: exact products, summed in float64 and rounded once.
template <class Decode>
Operation mma(const Layout& a, const Layout& b, int per_register, Decode decode) {
    return [&a, &b, per_register, decode](Warp& warp, const Instruction& instruction, Mask active) {
        check_all(warp, instruction, active);
        const int depth = 8 * per_register;
        const int registers_of_a = a.n_values() / per_register;
        const int registers_of_b = b.n_values() / per_register;
        double A[16][16], B[8][16];
        const auto value_of = [&](int lane, int first, int value) -> double {
            const uint32_t word = get<uint32_t>(warp, instruction.operands[first + value / per_register], lane);
            return decode(word, value % per_register);
        };
        for (int lane = 0; lane < LANES; lane++) {
            for (int v = 0; v < a.n_values(); v++) A[a.row(lane, v)][a.column(lane, v)] = value_of(lane, 0, v);
            for (int v = 0; v < b.n_values(); v++)
                B[b.row(lane, v)][b.column(lane, v)] = value_of(lane, registers_of_a, v);
        }
        for (int lane = 0; lane < LANES; lane++) {
            for (int v = 0; v < SUMS.n_values(); v++) {
                const int addend = instruction.operands[registers_of_a + registers_of_b + v];
                double sum = get<float>(warp, addend, lane);
                const int row = SUMS.row(lane, v), column = SUMS.column(lane, v);
                for (int k = 0; k < depth; k++) sum += A[row][k] * B[column][k];
                put(warp, instruction.results[v], lane, float(sum));
            }
        }
    };
}

// ldmatrix: lane 8 m + r says where row r of matrix m begins, 8 numbers of 16 bits. The matrix is handed out as a lane
// of a product holds it: row lane / 4, two numbers from column 2 (lane % 4) on; or the same of its transpose.
void load_matrices(Warp& warp, const Instruction& instruction, Mask active) {
    check_all(warp, instruction, active);
    Instruction of_rows = instruction;
    of_rows.space = Space::SHARED;
    of_rows.bytes = 16;
    of_rows.elements = 1;
    const int lanes = 8 * instruction.n_results;
    const auto rows = accessed(warp, of_rows, lanes == LANES ? ALL : (Mask(1) << lanes) - 1, false);
    for (int m = 0; m < instruction.n_results; m++) {
        for (int lane = 0; lane < LANES; lane++) {
            uint16_t pair[2];
            for (int k = 0; k < 2; k++) {
                const int row = lane / 4, column = 2 * (lane % 4) + k;
                const int begin = instruction.transpose ? column : row;
                const int along = instruction.transpose ? row : column;
                std::memcpy(&pair[k], rows[8 * m + begin] + 2 * along, sizeof pair[k]);
            }
            put(warp, instruction.results[m], lane, uint32_t(pair[1]) << 16 | pair[0]);
        }
    }
}

}  // namespace

void add_warps(Table& table) {
    table["shfl.sync.idx.b32"] = shuffle<Shuffle::IDX>;
    table["shfl.sync.up.b32"] = shuffle<Shuffle::UP>;
    table["shfl.sync.down.b32"] = shuffle<Shuffle::DOWN>;
    table["shfl.sync.bfly.b32"] = shuffle<Shuffle::BFLY>;
    table["vote.sync.ballot.b32"] = vote<uint32_t>([](Mask found, Mask) { return found; });
    table["vote.sync.any.pred"] = vote<bool>([](Mask found, Mask) { return found != 0; });
    table["vote.sync.all.pred"] = vote<bool>([](Mask found, Mask active) { return found == active; });
    table["activemask.b32"] = active_mask;

    const std::string product = "mma.sync.aligned.m16n8k";
    table[product + "16.row.col.f32.bf16.bf16.f32"] =
        mma(A_OF_16_BITS, B_OF_16_BITS, 2, [](uint32_t word, int half) { return from_bf16(word >> 16 * half); });
    table[product + "16.row.col.f32.f16.f16.f32"] =
        mma(A_OF_16_BITS, B_OF_16_BITS, 2, [](uint32_t word, int half) { return from_f16(word >> 16 * half); });
    table[product + "8.row.col.f32.tf32.tf32.f32"] =
        mma(A_OF_TF32, B_OF_TF32, 1, [](uint32_t word, int) { return from_tf32(word); });
    for (const char* count : {"x1", "x2", "x4"}) {
        for (const char* transpose : {"", ".trans"}) {
            table[std::string("ldmatrix.sync.aligned.m8n8.") + count + transpose + ".b16"] = load_matrices;
        }
    }
}

}  // namespace ptx
