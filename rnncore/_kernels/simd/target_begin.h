/* Compile what follows, up to target_end.h, for the instruction set TARGET. Everything in between is static or carries
   the instruction set in its name, so that the linker cannot hand one instruction set's copy to another. */
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define PUSH(target_) PRAGMA(clang attribute push(__attribute__((target(target_))), apply_to = function))
PUSH(TARGET)
#else
#define PUSH(target_) PRAGMA(GCC target(target_))
_Pragma("GCC push_options")
PUSH(TARGET)
#endif
