/* sha256.h - the hash of a file, as the text that sha256sum prints. */
#ifndef EDGEPT_SHA256_H
#define EDGEPT_SHA256_H

#include <stdbool.h>
#include <stddef.h>

/* Of bytes. hex: 64 digits and a zero byte. */
void edgept_sha256_bytes(const void *data, size_t size, char hex[65]);

/* Of an open file from its beginning to its end; false where reading it failed. */
bool edgept_sha256_file(int descriptor, char hex[65]);

#endif
