// Floating-point arithmetic. Approximations (.approx, .full) give the nearest number: tests allow for more.
#include <cmath>
#include <limits>

#include "operations.hpp"

namespace ptx {
namespace {

template <class T>
T flushed(T x) {
    return std::fabs(x) < std::numeric_limits<T>::min() ? std::copysign(T(0), x) : x;
}

bool flushed(bool p) {
    return p;
}

// An operation on numbers as it is and, as .ftz, with subnormal numbers taken for zeros.
template <class Signature, class F>
void add_both(Table& table, const std::string& name, const std::string& type, int mode, F f) {
    table[name + "." + type] = with_rounding(mode, lanewise<Signature>(f));
    const auto flushing = [f](auto... x) { return flushed(f(flushed(x)...)); };
    table[name + ".ftz." + type] = with_rounding(mode, lanewise<Signature>(flushing));
}

template <class Signature, class F>
void add_plain(Table& table, const std::string& name, const std::string& type, F f) {
    add_both<Signature>(table, name, type, FE_TONEAREST, f);
}

template <class Signature, class F>
void add_rounded(Table& table, const std::string& name, const std::string& type, F f) {
    for (const auto& [modifier, mode] : ROUNDINGS) add_both<Signature>(table, name + modifier, type, mode, f);
}

// A NaN gives way to a number, and -0 is less than 0.
template <class T>
T minimum(T a, T b) {
    if (std::isnan(a)) return b;
    if (std::isnan(b)) return a;
    if (a == b) return std::signbit(a) ? a : b;
    return a < b ? a : b;
}

template <class T>
T maximum(T a, T b) {
    return -minimum(-a, -b);
}

template <class T>
bool unordered(T a, T b) {
    return std::isnan(a) || std::isnan(b);
}

template <class T>
void add_comparisons(Table& table, const std::string& type) {
    const auto add = [&](const char* name, auto f) {
        add_plain<bool(T, T)>(table, std::string("setp.") + name, type, f);
    };
    add("eq", [](T a, T b) { return a == b; });
    add("ne", [](T a, T b) { return a < b || a > b; });
    add("lt", [](T a, T b) { return a < b; });
    add("le", [](T a, T b) { return a <= b; });
    add("gt", [](T a, T b) { return a > b; });
    add("ge", [](T a, T b) { return a >= b; });
    add("equ", [](T a, T b) { return a == b || unordered(a, b); });
    add("neu", [](T a, T b) { return a != b; });
    add("ltu", [](T a, T b) { return !(a >= b); });
    add("leu", [](T a, T b) { return !(a > b); });
    add("gtu", [](T a, T b) { return !(a <= b); });
    add("geu", [](T a, T b) { return !(a < b); });
    add("nan", [](T a, T b) { return unordered(a, b); });
    add("num", [](T a, T b) { return !unordered(a, b); });
}

// In float64, so that float32 results are the nearest ones.
template <class T, class F>
void add_approximation(Table& table, const std::string& name, const std::string& type, F f) {
    add_plain<T(T)>(table, name + ".approx", type, [f](T x) { return T(f(double(x))); });
}

template <class T>
void add_type(Table& table, const std::string& type) {
    constexpr T NONE = std::numeric_limits<T>::quiet_NaN();
    add_rounded<T(T, T)>(table, "add", type, [](T a, T b) { return a + b; });
    add_rounded<T(T, T)>(table, "sub", type, [](T a, T b) { return a - b; });
    add_rounded<T(T, T)>(table, "mul", type, [](T a, T b) { return a * b; });
    add_rounded<T(T, T)>(table, "div", type, [](T a, T b) { return a / b; });
    add_rounded<T(T, T, T)>(table, "fma", type, [](T a, T b, T c) { return std::fma(a, b, c); });
    add_rounded<T(T)>(table, "rcp", type, [](T a) { return T(1) / a; });
    add_rounded<T(T)>(table, "sqrt", type, [](T a) { return std::sqrt(a); });

    add_plain<T(T)>(table, "neg", type, [](T a) { return -a; });
    add_plain<T(T)>(table, "abs", type, [](T a) { return std::fabs(a); });
    add_plain<T(T, T)>(table, "min", type, minimum<T>);
    add_plain<T(T, T)>(table, "max", type, maximum<T>);
    for (const std::string flush : {"", ".ftz"}) {
        const std::string end = flush + ".NaN." + type;
        table["min" + end] = lanewise<T(T, T)>([](T a, T b) { return unordered(a, b) ? NONE : minimum(a, b); });
        table["max" + end] = lanewise<T(T, T)>([](T a, T b) { return unordered(a, b) ? NONE : maximum(a, b); });
    }
    table["copysign." + type] = lanewise<T(T, T)>([](T sign, T x) { return std::copysign(x, sign); });
    table["testp.finite." + type] = lanewise<bool(T)>([](T a) { return std::isfinite(a); });
    table["testp.infinite." + type] = lanewise<bool(T)>([](T a) { return std::isinf(a); });
    table["testp.notanumber." + type] = lanewise<bool(T)>([](T a) { return std::isnan(a); });
    add_comparisons<T>(table, type);

    add_plain<T(T, T)>(table, "div.full", type, [](T a, T b) { return a / b; });
    add_plain<T(T, T)>(table, "div.approx", type, [](T a, T b) { return a / b; });
    add_approximation<T>(table, "rcp", type, [](double x) { return 1 / x; });
    add_approximation<T>(table, "sqrt", type, [](double x) { return std::sqrt(x); });
    add_approximation<T>(table, "rsqrt", type, [](double x) { return 1 / std::sqrt(x); });
    add_approximation<T>(table, "ex2", type, [](double x) { return std::exp2(x); });
    add_approximation<T>(table, "lg2", type, [](double x) { return std::log2(x); });
    add_approximation<T>(table, "sin", type, [](double x) { return std::sin(x); });
    add_approximation<T>(table, "cos", type, [](double x) { return std::cos(x); });
    add_approximation<T>(table, "tanh", type, [](double x) { return std::tanh(x); });
}

}  // namespace

void add_floats(Table& table) {
    add_type<float>(table, "f32");
    add_type<double>(table, "f64");
}

}  // namespace ptx
