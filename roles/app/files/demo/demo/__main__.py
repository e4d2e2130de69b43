"""`python3 -m demo migrate`: create the tables through the writer."""

import sys

from demo.database import Problem, from_environment


def main(arguments):
    if arguments != ["migrate"]:
        return "usage: python3 -m demo migrate"
    database = from_environment()
    if database is None:
        print("No database is configured (DB_WRITER_HOST): nothing to migrate.")
        return 0
    try:
        database.migrate()
    except Problem as problem:
        return f"The writer refused the tables: {problem}"
    print("The tables are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
