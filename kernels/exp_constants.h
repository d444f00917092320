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

#endif
