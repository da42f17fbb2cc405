// SPDX-License-Identifier: Apache-2.0
// hms: what memories a machine has, and which is best for whom. The man page is hms.1.
#include "hms/tool/command.h"

int main(int argc, char** argv) {
  using namespace mirrorcl::hms::tool;
  CLI::App app{"Shows the memories of a machine, who reaches them and how, and which are best for whom."};
  app.name("hms");
  app.set_version_flag("--version", MIRRORCL_VERSION);
  app.require_subcommand(1);
  app.fallthrough();  // --topology may also stand behind the subcommand
  app.footer("'hms COMMAND --help' has the options of a command, hms(1) the details.");
  Context context;
  app.add_option(
         "-t,--topology", context.topology,
         "plan for another machine: an hwloc XML file, a captured sysfs tree, a file or tree that 'hms show' wrote")
      ->type_name("PATH");
  add_show(app, context);
  add_best(app, context);
  add_paths(app, context);
  add_measure(app, context);
  add_bind(app, context);
  add_residency(app, context);
  add_why(app, context);
  add_stats(app, context);
  CLI11_PARSE(app, argc, argv);
  return context.status;
}
