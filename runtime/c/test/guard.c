/* guard.c - judges the graphs of the folders on stdin, one a line: prints each one's status and reason. */
#include <stdio.h>
#include <string.h>

#include "graph_guard.h"

int main(void)
{
    char folder[4096];
    while (fgets(folder, sizeof folder, stdin) != NULL) {
        struct edgept_error error = {"", ""};
        folder[strcspn(folder, "\n")] = '\0';
        enum edgept_status status = edgept_graph_guard(folder, "model.onnx", "model.onnx.data", &error);
        printf("%d %s\n", (int)status, error.reason);
    }
    return 0;
}
