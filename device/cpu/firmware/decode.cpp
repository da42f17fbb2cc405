// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/firmware/decode.h"

namespace mirrorcl::firmware {
namespace {

// One-byte opcodes that are followed by a ModRM byte: a set bit means yes.
constexpr std::uint16_t kHasModrm[16] = {
    0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0000, 0x0000, 0x0a08, 0x0000,  // 00..7f
    0xffff, 0x0000, 0x0000, 0x0000, 0x00c3, 0xff0f, 0x0000, 0xc0c0,  // 80..ff
};

struct Cursor {
  const std::uint8_t* at;
  std::uint8_t byte() { return *at++; }
  std::int64_t signed8() { return static_cast<std::int8_t>(byte()); }
  std::int64_t signed32() {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value |= std::uint32_t{byte()} << (8 * i);
    return static_cast<std::int32_t>(value);
  }
};

// Bytes of immediate operands after the displacement, which RIP-relative addressing counts too. Only for the maps where
// it matters.
int immediate_size(int map, std::uint8_t opcode, std::uint8_t modrm, bool operand16) {
  int full = operand16 ? 2 : 4;
  if (map == 3) return 1;
  if (map == 2) return 0;
  if (map == 1) {
    bool one = (opcode >= 0x70 && opcode <= 0x73) || opcode == 0xa4 || opcode == 0xac || opcode == 0xba ||
               opcode == 0xc2 || (opcode >= 0xc4 && opcode <= 0xc6);
    return one ? 1 : 0;
  }
  switch (opcode) {
    case 0x69:
    case 0x81:
    case 0xc7:
      return full;
    case 0x6b:
    case 0x80:
    case 0x83:
    case 0xc0:
    case 0xc1:
    case 0xc6:
      return 1;
    case 0xf6:
      return (modrm & 0x38) <= 0x08 ? 1 : 0;
    case 0xf7:
      return (modrm & 0x38) <= 0x08 ? full : 0;
    default:
      return 0;
  }
}

}  // namespace

Operand decode_operand(const std::uint8_t* code, const std::uint64_t registers[16]) noexcept {
  Cursor cursor{code};
  bool operand16 = false;
  std::uint8_t rex = 0;
  std::uint8_t opcode = cursor.byte();
  for (int prefixes = 0; prefixes < 14; ++prefixes, opcode = cursor.byte()) {
    if (opcode == 0x66) operand16 = true;
    bool legacy = opcode == 0x66 || opcode == 0x67 || opcode == 0xf0 || opcode == 0xf2 || opcode == 0xf3 ||
                  opcode == 0x2e || opcode == 0x36 || opcode == 0x3e || opcode == 0x26 || opcode == 0x64 ||
                  opcode == 0x65;
    if (!legacy) break;
  }
  if ((opcode & 0xf0) == 0x40) {
    rex = opcode;
    opcode = cursor.byte();
  }
  bool extend_base = (rex & 1) != 0;
  bool extend_index = (rex & 2) != 0;
  int map = 0;
  bool vector = false;
  int displacement_scale = 1;
  if (opcode == 0xc5) {
    cursor.byte();
    map = 1;
    vector = true;
    opcode = cursor.byte();
  } else if (opcode == 0xc4) {
    std::uint8_t first = cursor.byte();
    cursor.byte();
    extend_base = (first & 0x20) == 0;
    extend_index = (first & 0x40) == 0;
    map = first & 0x1f;
    vector = true;
    opcode = cursor.byte();
  } else if (opcode == 0x62) {
    std::uint8_t first = cursor.byte();
    cursor.byte();
    std::uint8_t third = cursor.byte();
    extend_base = (first & 0x20) == 0;
    extend_index = (first & 0x40) == 0;
    map = first & 0x07;
    vector = true;
    // The usual full-vector scale; broadcasts and narrow forms are told too far by less than a cache line.
    displacement_scale = (third & 0x10) != 0 ? 4 : 16 << ((third >> 5) & 3);
    opcode = cursor.byte();
  } else if (opcode == 0x0f) {
    map = 1;
    opcode = cursor.byte();
    if (opcode == 0x38 || opcode == 0x3a) {
      map = opcode == 0x38 ? 2 : 3;
      opcode = cursor.byte();
    }
    vector = map > 1 || (opcode >= 0x10 && opcode <= 0x17) || (opcode >= 0x28 && opcode <= 0x2f) ||
             (opcode >= 0x50 && opcode <= 0x7f) || opcode >= 0xd0;
  }

  if (map == 0) {
    // String instructions: rsi and rdi.
    if (opcode == 0xa4 || opcode == 0xa5 || opcode == 0xa6 || opcode == 0xa7) {
      std::uint64_t source = registers[6];
      bool canonical = static_cast<std::int64_t>(source << 16) >> 16 == static_cast<std::int64_t>(source);
      return {true, false, canonical ? registers[7] : source};
    }
    if (opcode == 0xaa || opcode == 0xab || opcode == 0xae || opcode == 0xaf) return {true, false, registers[7]};
    if (opcode == 0xac || opcode == 0xad) return {true, false, registers[6]};
    bool stack = (opcode >= 0x50 && opcode <= 0x5f) || opcode == 0xc3 || opcode == 0xc9 || opcode == 0xe8;
    if (stack) return {true, false, registers[4]};
    if ((kHasModrm[opcode >> 4] >> (opcode & 15) & 1) == 0) return {false, false, 0};
  }

  std::uint8_t modrm = cursor.byte();
  int mode = modrm >> 6;
  int rm = modrm & 7;
  if (mode == 3) return {false, vector, 0};
  std::uint64_t address = 0;
  bool rip_relative = false;
  if (rm == 4) {
    std::uint8_t sib = cursor.byte();
    int base = sib & 7;
    int index = ((sib >> 3) & 7) | (extend_index ? 8 : 0);
    if (index != 4) address += registers[index] << (sib >> 6);
    if (base == 5 && mode == 0) {
      address += static_cast<std::uint64_t>(cursor.signed32());
    } else {
      address += registers[base | (extend_base ? 8 : 0)];
    }
  } else if (rm == 5 && mode == 0) {
    rip_relative = true;
    address += static_cast<std::uint64_t>(cursor.signed32());
  } else {
    address += registers[rm | (extend_base ? 8 : 0)];
  }
  if (mode == 1) address += static_cast<std::uint64_t>(cursor.signed8() * displacement_scale);
  if (mode == 2) address += static_cast<std::uint64_t>(cursor.signed32());
  if (rip_relative) {
    address += reinterpret_cast<std::uint64_t>(cursor.at) +
               static_cast<std::uint64_t>(immediate_size(map, opcode, modrm, operand16));
  }
  return {true, vector, address};
}

}  // namespace mirrorcl::firmware
