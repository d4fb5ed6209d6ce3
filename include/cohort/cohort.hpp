// Everything a program needs that is one file: tasks, the executor, memory, the ops, and a backend that is found at run
// time. Programs that keep coroutines in .cpp files include the parts instead, and this header nowhere.
#pragma once

#include <cohort/backend/automatic.hpp>
#include <cohort/chain.hpp>
#include <cohort/error.hpp>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/op.hpp>
#include <cohort/spawn.hpp>
#include <cohort/task.hpp>
#include <cohort/tenant.hpp>
#include <cohort/types.hpp>
#include <cohort/when_all.hpp>
#include <cohort/when_any.hpp>
