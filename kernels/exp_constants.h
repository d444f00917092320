/* Constants of the f32 exponential, shared by scalar.c and the vector twins. EXP_C: interpolation of
 * (e^r - 1 - r) / r^2 in the Chebyshev nodes of |r| <= 0.3467, relative error of e^r 2^-30. */
#ifndef COX_KERNELS_EXP_CONSTANTS_H
#define COX_KERNELS_EXP_CONSTANTS_H

#define COX__EXP_MIN -104.0f /* exp of it rounds to 0 */
#define COX__EXP_MAX 89.0f   /* exp of it rounds to infinity */
#define COX__LOG2_E  0x1.715476p+0f
#define COX__ROUND   0x1.8p+23f   /* adding it rounds to the nearest integer */
#define COX__LN2_HI  0x1.62e4p-1f /* 15 bits: its product with n is exact */
#define COX__LN2_LO  0x1.7f7d1cp-20f
#define COX__EXP_C0  0x1p-1f
#define COX__EXP_C1  0x1.555556p-3f
#define COX__EXP_C2  0x1.5554e8p-5f
#define COX__EXP_C3  0x1.1110e0p-7f
#define COX__EXP_C4  0x1.6d4344p-10f
#define COX__EXP_C5  0x1.a1250ep-13f

/* The same in f64 (scalar_f64.c; terms of sums over logits). */
#define COX__LOG2_E_F64   0x1.71547652b82fep+0
#define COX__LN2_HI_F64   0x1.62e42fefa2p-1 /* 40 bits */
#define COX__LN2_LO_F64   0x1.9ef35793c7673p-41
#define COX__ROUND_F64    0x1.8p+52
#define COX__EXP_TERM_MIN (-708.0) /* exp of it is a normal number */
/* 1 / k! for k = 2..14 */
#define COX__INVERSE_FACTORIALS                                                                     \
    {                                                                                               \
        1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,    \
            1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0, 1.0 / 87178291200.0 \
    }

#endif
