/* What put and get can serve by a copy alone. */

#include <stdlib.h>
#include <string.h>

#include "desk.h"
#include "internal.h"

typedef struct entry {
    struct entry *next;
    int handle;
    char *grid, *name; /* one block with the entry; grid is NULL for room that the host fills */
    int64_t n, pieces, *length;
    double **piece;
    unsigned char *full;
} entry;

static entry *desk;

static entry *find(int handle, const char *grid, const char *name)
{
    for (entry *e = desk; e; e = e->next)
        if (e->handle == handle && !grid == !e->grid && strcmp(e->name, name) == 0 && (!grid || strcmp(e->grid, grid) == 0))
            return e;
    return NULL;
}

static entry *add(int handle, const char *grid, const char *name, int64_t pieces)
{
    size_t tables = (size_t)pieces * (sizeof(int64_t) + sizeof(double *));
    size_t of_grid = grid ? strlen(grid) + 1 : 0, of_name = strlen(name) + 1;
    entry *e = calloc(1, sizeof *e + tables + of_grid + of_name);
    if (!e) return NULL;
    e->handle = handle;
    e->pieces = pieces;
    e->length = (int64_t *)(e + 1);
    e->piece = (double **)(e->length + pieces);
    char *text = (char *)(e->piece + pieces);
    e->name = memcpy(text, name, of_name);
    e->grid = grid ? memcpy(text + of_name, grid, of_grid) : NULL;
    e->next = desk;
    return desk = e;
}

int desk_take(int handle, const char *name, int64_t n, double *room, unsigned char *full)
{
    entry *e = add(handle, NULL, name, 1);
    if (!e) return -1;
    e->n = n;
    e->piece[0] = room;
    e->full = full;
    return 0;
}

int desk_offer(int handle, const char *grid, const char *name, int64_t pieces, double **piece, int64_t *length)
{
    entry *e = add(handle, grid, name, pieces);
    if (!e) return -1;
    for (int64_t i = 0; i < pieces; i++) {
        e->piece[i] = piece[i];
        e->n += e->length[i] = length[i];
    }
    return 0;
}

void desk_clear(int handle, int room)
{
    for (entry **at = &desk; *at;) {
        entry *e = *at;
        if (e->handle == handle && (room || e->grid)) {
            *at = e->next;
            free(e);
        } else {
            at = &e->next;
        }
    }
}

int desk_put(int handle, const char *name, int64_t n, const double *values)
{
    entry *e = name ? find(handle, NULL, name) : NULL;
    if (!e || e->n != n || (n && !values)) return 0;
    if (n) memcpy(e->piece[0], values, (size_t)n * sizeof *values);
    *e->full = 1;
    return 1;
}

int desk_get(int handle, const char *grid, const char *name, int64_t n, double *values)
{
    entry *e = grid && name ? find(handle, grid, name) : NULL;
    if (!e || e->n != n || (n && !values)) return 0;
    for (int64_t i = 0; i < e->pieces; i++) {
        if (e->length[i]) memcpy(values, e->piece[i], (size_t)e->length[i] * sizeof *values);
        values = e->length[i] ? values + e->length[i] : values;
    }
    return 1;
}
