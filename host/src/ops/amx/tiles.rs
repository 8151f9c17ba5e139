//! The tile unit itself: asking for it, setting it up, and the one loop that runs on it. All of its instructions are in this file.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::cell::UnsafeCell;
use std::sync::OnceLock;

/// Rows and columns of the block of results that the loop makes: two by two tiles of 16 by 16.
pub(super) const SIDE: usize = 32;
/// Terms of the sums that one step of the loop adds.
pub(super) const DEPTH: usize = 32;
/// Parts that an `f32` is split into.
pub(super) const PARTS: usize = 3;
/// Elements of a factor's block of `SIDE` by `DEPTH` in one part.
pub(super) const PART: usize = SIDE * DEPTH;
/// Elements of a factor's packed block: its leading part, then the middle, then the last; each of them two tiles.
pub(super) const STEP: usize = PARTS * PART;

/// Why there are no tiles to use; none if there are. Asks once.
pub(super) fn refusal() -> Option<&'static str> {
    static REFUSAL: OnceLock<Option<&'static str>> = OnceLock::new();
    *REFUSAL.get_or_init(|| {
        if !processor_has_tiles() {
            Some("none on this processor")
        } else if !system_permits_tiles() {
            Some("not permitted by the system")
        } else {
            None
        }
    })
}

fn processor_has_tiles() -> bool {
    /// Bits of leaf 7: tiles, and products of bf16 on them.
    const TILES: u32 = 1 << 24 | 1 << 22;
    /// State that the system saves: of vectors up to AVX-512 and of tiles.
    const SAVED: u64 = 0b110_0000_0000_1110_0110;
    let vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("xsave");
    // Leaf 7 is there, since AVX-512 is found in it.
    // SAFETY: `xgetbv` needs `xsave`, found just above.
    vectors && __cpuid_count(7, 0).edx & TILES == TILES && unsafe { saved_state() } & SAVED == SAVED
}

/// What the system saves of a thread when another runs.
#[target_feature(enable = "xsave")]
fn saved_state() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does, and reading it changes nothing.
    unsafe { _xgetbv(0) }
}

/// Tiles are 8 kB of state for every thread that uses them, so Linux wants to be asked (Linux kernel, Documentation/arch/x86/xstate.rst).
fn system_permits_tiles() -> bool {
    const ARCH_PRCTL: isize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let status: isize;
    // SAFETY: the call reads and writes no memory of ours; it changes two registers, which are declared. Once granted, the permission holds for every thread.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => status,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    status == 0
}

/// The layout of the eight tiles, as the processor reads it: 16 rows of 64 bytes each.
#[repr(C, align(64))]
struct Layout {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static LAYOUT: Layout = Layout {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// A block of results, row-major.
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [f32; SIDE * SIDE]);

impl Sums {
    pub(super) const fn new() -> Self {
        Self([0.0; SIDE * SIDE])
    }
}

/// Memory of a tile.
#[repr(C, align(64))]
struct Scratch([u8; 1024]);

/// This thread's tiles, set up while this lives.
pub(super) struct Tiles {
    /// What [`Self::add`] writes and nothing reads. Not to be shared among threads, as the set-up belongs to one.
    scratch: UnsafeCell<Scratch>,
}

impl Tiles {
    /// Sets the tiles up, where they are there.
    pub(super) fn set_up() -> Option<Self> {
        if refusal().is_some() {
            return None;
        }
        // SAFETY: the processor has the instruction and the system permits it. It reads the 64 bytes of a valid layout and touches nothing that the compiler
        // uses: no Rust code keeps anything in tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const LAYOUT, options(nostack, readonly)) };
        Some(Self {
            scratch: UnsafeCell::new(Scratch([0; 1024])),
        })
    }

    /// How often [`Self::add`] calls what is done in between.
    pub(super) const PAUSES: usize = 6;

    /// Begins the sums of a block of 32 by 32.
    #[inline]
    pub(super) fn begin(&self) {
        // SAFETY: the tiles are set up on this thread. They keep their content up to the last `add` and `end`: no other code here uses them, and the system saves them.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem),
            );
        }
    }

    /// Adds the product of a packed block of each factor (`super::pack` says how they lie).
    ///
    /// Of the nine products of parts the six that matter at the accuracy of `f32` are added, in a fixed order. After each of them `between` may do some dozens of other
    /// instructions, for which the unit does not wait.
    ///
    /// # Safety
    /// `left` and `right` must be valid for reads of `STEP` elements.
    #[inline(always)]
    pub(super) unsafe fn add(
        &self,
        left: *const u16,
        right: *const u16,
        mut between: impl FnMut(),
    ) {
        /// Instructions on tiles; `a` and `b` are the packed blocks, `s` the distance of rows, `w` the scratch.
        macro_rules! tiles {
            ($($instruction:literal),* $(,)?) => {
                // SAFETY: the tiles are set up on this thread, so that a load or a store of one touches 16 rows of 64 bytes: 1 kB, within a packed block of six or within the
                // scratch. Tiles keep their content from one of these to the next: no other code here uses them, and the system saves them.
                unsafe {
                    asm!(
                        $($instruction,)*
                        "/* {a} {b} {s} {w} */",
                        a = in(reg) left,
                        b = in(reg) right,
                        s = in(reg) 64usize,
                        w = in(reg) self.scratch.get(),
                        options(nostack),
                    )
                }
            };
        }
        // leading by last
        tiles!(
            "tileloadd tmm4, [{a} + {s}*1]",
            "tileloadd tmm6, [{b} + {s}*1 + 4096]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a} + {s}*1 + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {s}*1 + 5120]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
        );
        between();
        // leading by middle
        tiles!(
            "tileloadd tmm6, [{b} + {s}*1 + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {s}*1 + 3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
        );
        between();
        // leading by leading
        tiles!(
            "tileloadd tmm6, [{b} + {s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {s}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
        );
        between();
        // last by leading
        tiles!(
            "tileloadd tmm4, [{a} + {s}*1 + 4096]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {s}*1 + 5120]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
        );
        between();
        // middle by leading
        tiles!(
            "tileloadd tmm4, [{a} + {s}*1 + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {s}*1 + 3072]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
        );
        between();
        // middle by middle
        tiles!(
            "tileloadd tmm6, [{b} + {s}*1 + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {s}*1 + 3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // Of no use but to keep the way from the tiles to memory awake: after some 0.85 us without a store the next one takes 0.26 us longer.
            "tilestored [{w} + {s}*1], tmm4",
        );
        between();
    }

    /// Writes the sums, row-major.
    #[inline]
    pub(super) fn end(&self, sums: &mut Sums) {
        // SAFETY: as in `add`; the four tiles are side by side and below each other in 32 rows of 128 bytes.
        unsafe {
            asm!(
                "tilestored [{sums} + {s}*1], tmm0",
                "tilestored [{sums} + {s}*1 + 64], tmm1",
                "tilestored [{sums} + {s}*1 + 2048], tmm2",
                "tilestored [{sums} + {s}*1 + 2112], tmm3",
                sums = in(reg) sums.0.as_mut_ptr(),
                s = in(reg) 128usize,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles were set up on this thread, which the type cannot leave; nothing reads them any more.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
