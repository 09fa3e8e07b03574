/* UTF-8, and arrays that grow. */
#include "tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

static enum edgept_text_status grow(void **data, size_t *capacity, size_t item, size_t count)
{
    size_t room = *capacity < 32 ? 32 : *capacity;
    void *grown;

    if (count <= *capacity)
        return EDGEPT_TEXT_OK;
    while (room < count) {
        if (room > SIZE_MAX / 2 / item)
            return EDGEPT_TEXT_NO_MEMORY;
        room *= 2;
    }
    grown = realloc(*data, room * item);
    if (grown == NULL)
        return EDGEPT_TEXT_NO_MEMORY;
    *data = grown;
    *capacity = room;
    return EDGEPT_TEXT_OK;
}

enum edgept_text_status text_bytes_reserve(struct text_bytes *bytes, size_t count)
{
    void *data = bytes->data;
    enum edgept_text_status status = EDGEPT_TEXT_TOO_LONG; /* places in a text are 32 bits wide */

    if (count <= TEXT_MAX_GROWN)
        status = grow(&data, &bytes->capacity, 1, count);
    bytes->data = data;
    return status;
}

enum edgept_text_status text_numbers_reserve(struct text_numbers *numbers, size_t count)
{
    void *data = numbers->data;
    enum edgept_text_status status = grow(&data, &numbers->capacity, sizeof *numbers->data, count);

    numbers->data = data;
    return status;
}

enum edgept_text_status text_ids_reserve(struct text_ids *ids, size_t count)
{
    void *data = ids->data;
    enum edgept_text_status status = grow(&data, &ids->capacity, sizeof *ids->data, count);

    ids->data = data;
    return status;
}

enum edgept_text_status text_bytes_add(struct text_bytes *bytes, const void *data, size_t size)
{
    enum edgept_text_status status = text_bytes_reserve(bytes, bytes->size + size);

    if (status == EDGEPT_TEXT_OK && size > 0) {
        memcpy(bytes->data + bytes->size, data, size);
        bytes->size += size;
    }
    return status;
}

enum edgept_text_status text_numbers_add(struct text_numbers *numbers, uint32_t number)
{
    enum edgept_text_status status = text_numbers_reserve(numbers, numbers->count + 1);

    if (status == EDGEPT_TEXT_OK)
        numbers->data[numbers->count++] = number;
    return status;
}

enum edgept_text_status text_ids_add(struct text_ids *ids, int64_t id)
{
    enum edgept_text_status status = text_ids_reserve(ids, ids->count + 1);

    if (status == EDGEPT_TEXT_OK)
        ids->data[ids->count++] = id;
    return status;
}

enum edgept_text_status text_pieces_add(struct text_pieces *pieces, uint32_t begin, uint32_t end,
                                        uint32_t first)
{
    void *data = pieces->data;
    enum edgept_text_status status =
        grow(&data, &pieces->capacity, sizeof *pieces->data, pieces->count + 1);

    pieces->data = data;
    if (status == EDGEPT_TEXT_OK) {
        struct text_piece *piece = &pieces->data[pieces->count++];

        piece->begin = begin;
        piece->end = end;
        piece->first = first;
    }
    return status;
}

int text_utf8_check(const unsigned char *text, size_t size, int *cut)
{
    unsigned char lowest = 0x80, highest = 0xBF; /* of the second byte */
    int bytes, at;

    *cut = 0;
    if (text[0] < 0x80)
        return 1;
    if (text[0] < 0xC2 || text[0] > 0xF4)
        return -1;
    bytes = text[0] < 0xE0 ? 2 : text[0] < 0xF0 ? 3 : 4;
    if (text[0] == 0xE0)
        lowest = 0xA0; /* shorter forms of two bytes */
    else if (text[0] == 0xED)
        highest = 0x9F; /* surrogates */
    else if (text[0] == 0xF0)
        lowest = 0x90;
    else if (text[0] == 0xF4)
        highest = 0x8F; /* above U+10FFFF */
    for (at = 1; at < bytes; at++) {
        if ((size_t)at == size) {
            *cut = 1;
            return -at;
        }
        if (text[at] < lowest || text[at] > highest)
            return -at;
        lowest = 0x80;
        highest = 0xBF;
    }
    return bytes;
}

uint32_t text_utf8_read(const unsigned char *text, size_t *size)
{
    if (text[0] < 0x80) {
        *size = 1;
        return text[0];
    }
    if (text[0] < 0xE0) {
        *size = 2;
        return (uint32_t)(text[0] & 0x1F) << 6 | (text[1] & 0x3Fu);
    }
    if (text[0] < 0xF0) {
        *size = 3;
        return (uint32_t)(text[0] & 0x0F) << 12 | (uint32_t)(text[1] & 0x3F) << 6 |
               (text[2] & 0x3Fu);
    }
    *size = 4;
    return (uint32_t)(text[0] & 0x07) << 18 | (uint32_t)(text[1] & 0x3F) << 12 |
           (uint32_t)(text[2] & 0x3F) << 6 | (text[3] & 0x3Fu);
}

size_t text_utf8_write(uint32_t character, unsigned char *text)
{
    if (character < 0x80) {
        text[0] = (unsigned char)character;
        return 1;
    }
    if (character < 0x800) {
        text[0] = (unsigned char)(0xC0 | character >> 6);
        text[1] = (unsigned char)(0x80 | (character & 0x3F));
        return 2;
    }
    if (character < 0x10000) {
        text[0] = (unsigned char)(0xE0 | character >> 12);
        text[1] = (unsigned char)(0x80 | (character >> 6 & 0x3F));
        text[2] = (unsigned char)(0x80 | (character & 0x3F));
        return 3;
    }
    text[0] = (unsigned char)(0xF0 | character >> 18);
    text[1] = (unsigned char)(0x80 | (character >> 12 & 0x3F));
    text[2] = (unsigned char)(0x80 | (character >> 6 & 0x3F));
    text[3] = (unsigned char)(0x80 | (character & 0x3F));
    return 4;
}
