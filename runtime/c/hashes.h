/* hashes.h - whether the files of a bundle are those that were exported. */
#ifndef EDGEPT_HASHES_H
#define EDGEPT_HASHES_H

#include "edgept.h"

/* Lines as sha256sum writes them, one for each other file of the bundle. */
#define EDGEPT_HASHES_NAME "edgept.sha256"

/*
 * Compare every file that edgept.sha256 lists with its hash.
 * folder: of the bundle. sha256: of the list itself, or NULL. needed: names that it must list, NULL at
 * the end.
 */
enum edgept_status edgept_hashes_check(const char *folder, const char *sha256,
                                       const char *const *needed, struct edgept_error *error);

#endif
