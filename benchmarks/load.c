/* The load: one thread, epoll, no allocation while it measures, so that the server is what limits.

   load MODE PORT PID CONNECTIONS SIZE DEPTH IDLE WARMUP SECONDS

   echo    CONNECTIONS keep DEPTH messages of SIZE bytes under way each; an operation is a message that came back
   upload  CONNECTIONS send as fast as the server reads; an operation is a KiB
   fanout  one speaker sends DEPTH lines of SIZE bytes when CONNECTIONS listeners have the last ones; a line delivered
   churn   CONNECTIONS at a time connect, send SIZE bytes, half-close, read the reply to EOF, close; one of these
   wait    no operation at all

   IDLE further connections are opened first and stay silent. After WARMUP seconds it measures for SECONDS, and reads
   the server's CPU time and memory from the process PID. Prints one line of JSON.
   `load.py` is the same in Python, for machines without a C compiler. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { BUFFER = 1 << 20, EVENTS = 512, SOURCES = 200, BATCH = 500, PATIENCE = 20 };

struct connection {
    int fd, writing;     /* writing: EPOLLOUT is asked for */
    size_t owed, got;    /* bytes still to be sent; bytes received of the message under way */
};

struct usage {
    double cpu;
    long user, system, resident;    /* clock ticks, clock ticks, KiB */
};

static char out[BUFFER], in[BUFFER];
static struct epoll_event events[EVENTS];
static struct connection *connections;
static int poller, port, count, depth, process;
static size_t size;
static unsigned sources;
static uint64_t operations;

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static struct usage usage(void)
{
    struct usage u = {0};
    struct timespec t;
    clockid_t clock;
    char path[64], line[1024], *rest;
    long pages = 0;
    if (clock_getcpuclockid(process, &clock) || clock_gettime(clock, &t))
        die("the server's CPU time");
    u.cpu = t.tv_sec + t.tv_nsec / 1e9;
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(line, sizeof line, file) || !(rest = strrchr(line, ')')))
        die(path);
    fclose(file);
    sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &u.user, &u.system);
    snprintf(path, sizeof path, "/proc/%d/statm", process);
    file = fopen(path, "r");
    if (!file || fscanf(file, "%*d %ld", &pages) != 1)
        die(path);
    fclose(file);
    u.resident = pages * (sysconf(_SC_PAGESIZE) / 1024);
    return u;
}

/* From source addresses in turn: one alone has no more than 28,000 ports. */
static int start_connecting(int flags)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (fd < 0)
        die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    address.sin_addr.s_addr = htonl(0x7f000001 + sources++ % SOURCES);
    if (bind(fd, (struct sockaddr *)&address, sizeof address))
        die("bind");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        die("connect");
    return fd;
}

static void be_patient(int fd)
{
    struct timeval patience = {.tv_sec = PATIENCE};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
}

/* Accepted in the order of connecting: when the last of a batch is answered, all of it is. */
static void open_idle(int idle)
{
    for (int i = 1; i <= idle; i++) {
        int fd = start_connecting(0);
        if (i % BATCH && i != idle)
            continue;
        be_patient(fd);
        if (send(fd, out, 1, 0) != 1 || recv(fd, in, 1, 0) != 1)
            die("the idle connections");
    }
}

static void watch(int operation, struct connection *c, uint32_t interest)
{
    struct epoll_event event = {.events = interest, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event))
        die("epoll_ctl");
}

static void open_busy(void)
{
    for (int i = 0; i < count; i++) {
        struct connection *c = &connections[i];
        c->fd = start_connecting(0);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        watch(EPOLL_CTL_ADD, c, EPOLLIN);
    }
}

static void send_owed(struct connection *c)
{
    while (c->owed) {
        ssize_t sent = send(c->fd, out, c->owed < BUFFER ? c->owed : BUFFER, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            break;
        if (sent < 0)
            die("send");
        c->owed -= sent;
    }
    if (c->writing != (c->owed > 0)) {
        c->writing = c->owed > 0;
        watch(EPOLL_CTL_MOD, c, c->writing ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

static size_t receive(struct connection *c)
{
    ssize_t n = recv(c->fd, in, BUFFER, 0);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0)
        die(n ? "recv" : "the server ended a connection");
    return n;
}

static void begin_echo(void)
{
    open_busy();
    for (int i = 0; i < count; i++) {
        connections[i].owed = size * depth;
        send_owed(&connections[i]);
    }
}

static void echo(struct connection *c, uint32_t ready)
{
    if (ready & ~EPOLLOUT) {
        c->got += receive(c);
        size_t whole = c->got / size;
        c->got -= whole * size;
        c->owed += whole * size;
        operations += whole;
    }
    if (c->owed)
        send_owed(c);
}

static void begin_upload(void)
{
    open_busy();
    for (int i = 0; i < count; i++)
        watch(EPOLL_CTL_MOD, &connections[i], EPOLLOUT);
}

static void upload(struct connection *c, uint32_t ready)
{
    (void)ready;
    ssize_t sent = send(c->fd, out, BUFFER, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        die("send");
    if (sent > 0) {
        c->got += sent;
        operations += c->got / 1024;
        c->got %= 1024;
    }
}

static struct connection *speaker;
static size_t awaited;

static void speak(void)
{
    awaited = size * depth * (count - 1);
    speaker->owed = size * depth;
    send_owed(speaker);
}

static void begin_fanout(void)
{
    count++;
    open_busy();
    speaker = &connections[count - 1];    /* the last: when it is heard, the others are members */
    for (size_t i = size - 1; i < BUFFER; i += size)
        out[i] = '\n';
    speak();
}

static void fanout(struct connection *c, uint32_t ready)
{
    (void)ready;
    size_t got = receive(c);
    operations += (c->got + got) / size;
    c->got = (c->got + got) % size;
    awaited -= got;
    if (!awaited)
        speak();
}

static void visit(struct connection *c)
{
    c->fd = start_connecting(SOCK_NONBLOCK);
    c->writing = 1;
    watch(EPOLL_CTL_ADD, c, EPOLLOUT);
}

static void begin_churn(void)
{
    for (int i = 0; i < count; i++)
        visit(&connections[i]);
}

static void churn(struct connection *c, uint32_t ready)
{
    (void)ready;
    if (c->writing) {
        c->writing = 0;
        c->got = 0;
        if (send(c->fd, out, size, MSG_NOSIGNAL) != (ssize_t)size || shutdown(c->fd, SHUT_WR))
            die("connecting");
        watch(EPOLL_CTL_MOD, c, EPOLLIN);
        return;
    }
    ssize_t n = recv(c->fd, in, BUFFER, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0 || (n == 0 && c->got != size))
        die("a reply was lost");
    c->got += n;
    if (n == 0) {
        close(c->fd);
        operations++;
        visit(c);
    }
}

static const struct mode {
    const char *name;
    void (*begin)(void);
    void (*serve)(struct connection *, uint32_t);
} modes[] = {
    {"echo", begin_echo, echo},
    {"upload", begin_upload, upload},
    {"fanout", begin_fanout, fanout},
    {"churn", begin_churn, churn},
    {"wait", NULL, NULL},
};

static void serve_until(const struct mode *mode, double deadline)
{
    for (int turn = 0; turn % 16 || now() < deadline; turn++) {
        int ready = epoll_wait(poller, events, EVENTS, 100);
        for (int i = 0; i < ready; i++)
            mode->serve(events[i].data.ptr, events[i].events);
        if (!ready)
            turn |= 15;    /* the next look at the clock is due */
    }
}

int main(int argc, char **argv)
{
    const struct mode *mode = NULL;
    for (size_t i = 0; argc == 10 && i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(modes[i].name, argv[1]))
            mode = &modes[i];
    if (!mode) {
        fprintf(stderr, "usage: load MODE PORT PID CONNECTIONS SIZE DEPTH IDLE WARMUP SECONDS\n");
        return 2;
    }
    port = atoi(argv[2]);
    process = atoi(argv[3]);
    count = atoi(argv[4]);
    size = atol(argv[5]);
    depth = atoi(argv[6]);
    int idle = atoi(argv[7]);
    double warmup = atof(argv[8]), seconds = atof(argv[9]);
    poller = epoll_create1(0);
    connections = calloc(count + 1, sizeof *connections);
    memset(out, 'x', BUFFER);

    struct usage before = usage();
    open_idle(idle);
    struct usage loaded = usage();
    if (mode->begin) {
        mode->begin();
        serve_until(mode, now() + warmup);
    }
    struct usage begin = usage();
    double began = now();
    uint64_t operations_before = operations;
    if (mode->begin)
        serve_until(mode, began + seconds);
    double passed = now() - began;
    struct usage end = usage();
    printf("{\"operations\": %lu, \"seconds\": %.6f, \"cpu\": %.6f, \"user_ticks\": %ld, \"system_ticks\": %ld, "
           "\"resident\": %ld, \"idle_growth\": %ld}\n",
           operations - operations_before, passed, end.cpu - begin.cpu, end.user - begin.user,
           end.system - begin.system, end.resident, loaded.resident - before.resident);
    return 0;
}
