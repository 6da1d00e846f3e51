/*
 * Preloaded into a server: reads of one file fail, writes below one directory find the disk full, or a
 * system call is one of a later kernel, as a file of one page says that the tests write to:
 *
 *   R <offset> <end of a path>     reads that reach beyond the offset fail with EIO
 *   W 0 <begin of a path>          writes fail with ENOSPC
 *   S <number>                     syscall() with this number fails with ENOSYS
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096

static const volatile char *control;

__attribute__((constructor)) static void
map_control(void)
{
	const char *path = getenv("BACKUP_TESTS_CONTROL");
	int			fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd >= 0)
	{
		void	   *page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

		if (page != MAP_FAILED)
			control = page;
		close(fd);
	}
}

static int
strikes(char kind, int fd, long long end)
{
	char		order[PAGE];
	char		link[64];
	char		path[PAGE];
	char	   *wanted;
	long long	offset;
	ssize_t		length;
	size_t		wanted_length;
	int			saved = errno;

	if (!control || control[0] != kind)
		return 0;
	memcpy(order, (const char *) control, PAGE);
	order[PAGE - 1] = '\0';
	offset = strtoll(order + 1, &wanted, 10);
	if (*wanted != ' ')
		return 0;
	wanted++;
	wanted_length = strlen(wanted);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	errno = saved;
	if (length < (ssize_t) wanted_length || wanted_length == 0)
		return 0;
	path[length] = '\0';
	if (kind == 'W')
		return strncmp(path, wanted, wanted_length) == 0;
	return end > offset && strcmp(path + length - wanted_length, wanted) == 0;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name)) dlsym(RTLD_NEXT, #name)
#define FAIL(number) do { errno = (number); return -1; } while (0)

#define READ_AT(name, off) \
ssize_t name(int fd, void *data, size_t length, off at) \
{ \
	REAL(name); \
	if (strikes('R', fd, (long long) at + (long long) length)) \
		FAIL(EIO); \
	return real(fd, data, length, at); \
}

#define WRITE_AT(name, off) \
ssize_t name(int fd, const void *data, size_t length, off at) \
{ \
	REAL(name); \
	if (strikes('W', fd, 0)) \
		FAIL(ENOSPC); \
	return real(fd, data, length, at); \
}

#define WRITE_PARTS_AT(name, off) \
ssize_t name(int fd, const struct iovec *parts, int count, off at) \
{ \
	REAL(name); \
	if (strikes('W', fd, 0)) \
		FAIL(ENOSPC); \
	return real(fd, parts, count, at); \
}

#define ALLOCATE(name, off) \
int name(int fd, off at, off length) \
{ \
	REAL(name); \
	if (strikes('W', fd, 0)) \
		return ENOSPC; \
	return real(fd, at, length); \
}

READ_AT(pread, off_t)
READ_AT(pread64, off64_t)
WRITE_AT(pwrite, off_t)
WRITE_AT(pwrite64, off64_t)
WRITE_PARTS_AT(pwritev, off_t)
WRITE_PARTS_AT(pwritev64, off64_t)
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

ssize_t
read(int fd, void *data, size_t length)
{
	REAL(read);
	if (control && control[0] == 'R' &&
		strikes('R', fd, (long long) lseek(fd, 0, SEEK_CUR) + (long long) length))
		FAIL(EIO);
	return real(fd, data, length);
}

ssize_t
write(int fd, const void *data, size_t length)
{
	REAL(write);
	if (strikes('W', fd, 0))
		FAIL(ENOSPC);
	return real(fd, data, length);
}

long
syscall(long number, ...)
{
	REAL(syscall);
	long		a[6];
	va_list		arguments;

	if (control && control[0] == 'S' && strtol((const char *) control + 1, NULL, 10) == number)
		FAIL(ENOSYS);
	/* As glibc does, whatever the number of arguments is. */
	va_start(arguments, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(arguments, long);
	va_end(arguments);
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
