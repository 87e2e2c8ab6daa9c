/* For LD_PRELOAD: a program syncs each file that it has written, and its folder, before fclose() returns.
 *
 * DCMTK's storescp closes an instance's file before it answers, so with this it keeps the promise that ours
 * makes: a success means that the instance is on the disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void sync_with_folder(int file) {
  char link[64], path[4096];
  fsync(file);
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return;
  path[length] = 0;
  int folder = open(dirname(path), O_RDONLY | O_DIRECTORY);
  if (folder < 0) return;
  fsync(folder);
  close(folder);
}

int fclose(FILE *stream) {
  static int (*original)(FILE *);
  if (!original) original = (int (*)(FILE *))dlsym(RTLD_NEXT, "fclose");
  int file = fileno(stream);
  struct stat status;
  if (file > 2 && (fcntl(file, F_GETFL) & O_ACCMODE) != O_RDONLY && !fstat(file, &status) &&
      S_ISREG(status.st_mode) && !fflush(stream))
    sync_with_folder(file);
  return original(stream);
}
