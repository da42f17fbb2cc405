// SPDX-License-Identifier: Apache-2.0
// What libmirror-hms exports; everything else in the library is hidden.
#pragma once

#define HMS_API __attribute__((visibility("default")))
