// Conversions between integers and numbers of all widths.
#include <cmath>
#include <limits>

#include "numbers.hpp"
#include "operations.hpp"

namespace ptx {
namespace {

// The nearest integer there is; a NaN becomes 0.
template <class Integer>
Integer clamped(double x) {
    using Limits = std::numeric_limits<Integer>;
    if (std::isnan(x)) return 0;
    if (x <= double(Limits::min())) return Limits::min();
    if (x >= double(Limits::max())) return Limits::max();
    return Integer(x);
}

template <class Result, class Source>
void add_widths(Table& table, const std::string& result, const std::string& source) {
    table["cvt." + result + "." + source] = lanewise<Result(Source)>([](Source a) { return Result(a); });
}

template <class Result>
void add_integer(Table& table, const std::string& result) {
    add_widths<Result, int8_t>(table, result, "s8");
    add_widths<Result, uint8_t>(table, result, "u8");
    add_widths<Result, int16_t>(table, result, "s16");
    add_widths<Result, uint16_t>(table, result, "u16");
    add_widths<Result, int32_t>(table, result, "s32");
    add_widths<Result, uint32_t>(table, result, "u32");
    add_widths<Result, int64_t>(table, result, "s64");
    add_widths<Result, uint64_t>(table, result, "u64");
}

template <class Integer, class Float>
void add_pair(Table& table, const std::string& integer, const std::string& real) {
    for (const std::string flush : {"", ".ftz"}) {
        const std::string end = flush + "." + integer + "." + real;
        table["cvt.rni" + end] = lanewise<Integer(Float)>([](Float x) { return clamped<Integer>(std::nearbyint(x)); });
        table["cvt.rzi" + end] = lanewise<Integer(Float)>([](Float x) { return clamped<Integer>(std::trunc(x)); });
        table["cvt.rmi" + end] = lanewise<Integer(Float)>([](Float x) { return clamped<Integer>(std::floor(x)); });
        table["cvt.rpi" + end] = lanewise<Integer(Float)>([](Float x) { return clamped<Integer>(std::ceil(x)); });
    }
    for (const auto& [modifier, mode] : ROUNDINGS) {
        const Operation convert = lanewise<Float(Integer)>([](Integer x) { return Float(x); });
        table[std::string("cvt") + modifier + "." + real + "." + integer] = with_rounding(mode, convert);
    }
}

template <class Integer>
void add_both(Table& table, const std::string& integer) {
    add_pair<Integer, float>(table, integer, "f32");
    add_pair<Integer, double>(table, integer, "f64");
}

template <class Float>
void add_float(Table& table, const std::string& type) {
    for (const std::string flush : {"", ".ftz"}) {
        const std::string end = flush + "." + type + "." + type;
        table["cvt.rni" + end] = lanewise<Float(Float)>([](Float x) { return std::nearbyint(x); });
        table["cvt.rzi" + end] = lanewise<Float(Float)>([](Float x) { return std::trunc(x); });
        table["cvt.rmi" + end] = lanewise<Float(Float)>([](Float x) { return std::floor(x); });
        table["cvt.rpi" + end] = lanewise<Float(Float)>([](Float x) { return std::ceil(x); });
        table["cvt" + flush + ".sat." + type + "." + type] =
            lanewise<Float(Float)>([](Float x) { return x > 0 ? std::min(x, Float(1)) : 0; });
    }
}

uint32_t two_halves(uint16_t high, uint16_t low) {
    return uint32_t(high) << 16 | low;
}

}  // namespace

void add_conversions(Table& table) {
    add_integer<int8_t>(table, "s8");
    add_integer<uint8_t>(table, "u8");
    add_integer<int16_t>(table, "s16");
    add_integer<uint16_t>(table, "u16");
    add_integer<int32_t>(table, "s32");
    add_integer<uint32_t>(table, "u32");
    add_integer<int64_t>(table, "s64");
    add_integer<uint64_t>(table, "u64");
    add_both<int8_t>(table, "s8");
    add_both<uint8_t>(table, "u8");
    add_both<int16_t>(table, "s16");
    add_both<uint16_t>(table, "u16");
    add_both<int32_t>(table, "s32");
    add_both<uint32_t>(table, "u32");
    add_both<int64_t>(table, "s64");
    add_both<uint64_t>(table, "u64");
    add_float<float>(table, "f32");
    add_float<double>(table, "f64");

    table["cvt.f64.f32"] = lanewise<double(float)>([](float x) { return double(x); });
    for (const auto& [modifier, mode] : ROUNDINGS) {
        const Operation convert = lanewise<float(double)>([](double x) { return float(x); });
        table[std::string("cvt") + modifier + ".f32.f64"] = with_rounding(mode, convert);
    }
    table["cvt.f32.f16"] = lanewise<float(uint16_t)>(from_f16);
    table["cvt.f64.f16"] = lanewise<double(uint16_t)>(from_f16);
    table["cvt.f32.bf16"] = lanewise<float(uint16_t)>(from_bf16);
    table["cvt.rn.f16.f32"] = lanewise<uint16_t(float)>(to_f16);
    table["cvt.rn.bf16.f32"] = lanewise<uint16_t(float)>(to_bf16);
    table["cvt.rn.f16x2.f32"] =
        lanewise<uint32_t(float, float)>([](float high, float low) { return two_halves(to_f16(high), to_f16(low)); });
    table["cvt.rn.bf16x2.f32"] =
        lanewise<uint32_t(float, float)>([](float high, float low) { return two_halves(to_bf16(high), to_bf16(low)); });
    table["cvt.rna.tf32.f32"] = lanewise<uint32_t(float)>(to_tf32);
}

}  // namespace ptx
