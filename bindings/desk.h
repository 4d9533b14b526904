/* The desk of a handle: what put and get can serve by a copy alone, without crossing into Python, which lays it out
   (ai4land_coupler/capi.py) and keeps the memory it points to. Whatever is not on it, errors too, is answered by Python.
   Lines that begin with '#' are not for cffi. */
#ifndef AI4LAND_DESK_H
#define AI4LAND_DESK_H
#include <stdint.h>

/* Room for n values of a class that the host puts; *full becomes 1 when they are there. 0, or -1 without memory. */
int desk_take(int handle, const char *name, int64_t n, double *room, unsigned char *full);

/* A field that the host may get: n values in pieces, one after the other. 0, or -1 without memory. */
int desk_offer(int handle, const char *grid, const char *name, int64_t pieces, double **piece, int64_t *length);

/* Forget the fields of a handle, or with `room` all there is of it. */
void desk_clear(int handle, int room);
#endif
