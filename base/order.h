/* Order of numbers, for qsort. */
#ifndef COX_BASE_ORDER_H
#define COX_BASE_ORDER_H

/* Two doubles, the smaller first; none of them is NaN. */
static inline int cox_compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#endif
