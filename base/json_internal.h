/* Between the files of the JSON reader. */
#ifndef COX_BASE_JSON_INTERNAL_H
#define COX_BASE_JSON_INTERNAL_H

/* What stands for Infinity and for numbers beyond doubles in a text that went through cox__json_tame; no file
 * means this number. */
#define COX__JSON_INFINITE 9e307

/* [in, out] text: ends with NUL; its length stays. */
void cox__json_tame(char *text);

#endif
