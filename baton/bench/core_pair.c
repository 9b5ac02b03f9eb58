/* How far two cores are from each other: the time of a word that goes to the other and back. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

enum { TRIPS = 200, LOOKS = 4096 };

struct shared {
  _Alignas(128) atomic_int word;
  _Alignas(128) atomic_int is_over;
  struct timespec end;
  double best_ns;
  int cores[2];
};

static double passed_ns(const struct timespec *from, const struct timespec *to) {
  return (double)(to->tv_sec - from->tv_sec) * 1e9 + (double)(to->tv_nsec - from->tv_nsec);
}

static int is_late(struct shared *s) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (passed_ns(&s->end, &now) > 0) atomic_store(&s->is_over, 1);
  return atomic_load(&s->is_over);
}

/* Waits until the word is `wanted`; 0 when the time is over first. */
static int await(struct shared *s, int wanted) {
  for (int looks = 1; atomic_load(&s->word) != wanted; looks++)
    if (looks % LOOKS == 0 && is_late(s)) return 0;
  return 1;
}

static int hold(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0;
}

static void *answer(void *argument) {
  struct shared *s = argument;
  if (!hold(s->cores[1])) atomic_store(&s->is_over, 1);
  for (int word = 1; await(s, word); word += 2) atomic_store(&s->word, word + 1);
  return NULL;
}

static void *ask(void *argument) {
  struct shared *s = argument;
  if (!hold(s->cores[0])) atomic_store(&s->is_over, 1);
  for (int word = 1; !is_late(s);) {
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int trip = 0; trip < TRIPS; trip++, word += 2) {
      atomic_store(&s->word, word);
      if (!await(s, word + 1)) return NULL;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double trip_ns = passed_ns(&begin, &end) / TRIPS;
    if (s->best_ns < 0 || trip_ns < s->best_ns) s->best_ns = trip_ns;
  }
  return NULL;
}

/* Nanoseconds, the shortest of what fits into limit_ms; below 0 when the cores were never free
 * together or may not be used. */
double baton_round_trip_ns(int first, int second, int limit_ms) {
  struct shared s = {.best_ns = -1, .cores = {first, second}};
  clock_gettime(CLOCK_MONOTONIC, &s.end);
  s.end.tv_nsec += (long)(limit_ms % 1000) * 1000000;
  s.end.tv_sec += limit_ms / 1000;
  pthread_t threads[2];
  if (pthread_create(&threads[0], NULL, answer, &s)) return -1;
  if (pthread_create(&threads[1], NULL, ask, &s))
    atomic_store(&s.is_over, 1);
  else
    pthread_join(threads[1], NULL);
  pthread_join(threads[0], NULL);
  return s.best_ns;
}
