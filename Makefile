# make stage4    a running stage 4 in containers (stage1, stage2, stage3 likewise); make down removes it
# make deploy RELEASE=v2 [ARCHIVE=site.tar.gz], make rollback [RELEASE=v1], make switchover TO=db2, make failover, make backup,
# make status    on the running stage 4
# make test      every test; make test-quick for daily work; make chaos the long version of the faults, on a running stage 4,
#                with its results in docs/chaos.md; make chaos GO_ON=1 goes on after one that was ended early;
# make benchmark what a new stage 4, its edge and a replica's seeding cost, side by side; takes the stages down first, writes docs/benchmark.svg;
# make moving    stage 3 becomes stage 4 under load (docs/moving-the-database.md), on hosts of its own
.PHONY: setup stage1 stage2 stage3 stage4 deploy rollback switchover failover backup status test test-quick chaos benchmark moving down

stage1 stage2 stage3 stage4:
	@scripts/lab up $@

setup:
	@scripts/setup

test:
	@scripts/test

test-quick:
	@scripts/test quick

deploy:
	@scripts/lab run stage4 playbooks/deploy.yml $(if $(RELEASE),-e release=$(RELEASE)) $(if $(ARCHIVE),-e archive=$(abspath $(ARCHIVE)))

rollback:
	@scripts/lab run stage4 playbooks/rollback.yml $(if $(RELEASE),-e release=$(RELEASE))

switchover:
	@scripts/lab run stage4 playbooks/switchover.yml -e new_primary=$(TO)

failover:
	@scripts/lab run stage4 playbooks/failover.yml

backup:
	@scripts/lab run stage4 playbooks/backup.yml

status:
	@scripts/lab run stage4 playbooks/status.yml

chaos:
	@CHAOS_ROUNDS=5 CHAOS_GO_ON=$(GO_ON) PYTHONPATH=tests/chaos PATH=$(CURDIR)/.venv/bin:$(PATH) python -m pytest -v -p no:cacheprovider -p table tests/chaos tests/security

benchmark:
	@rm -f tests/output/benchmark.jsonl
	@PATH=$(CURDIR)/.venv/bin:$(PATH) python tests/benchmark/converge.py
	@PATH=$(CURDIR)/.venv/bin:$(PATH) python tests/benchmark/edge.py
	@PATH=$(CURDIR)/.venv/bin:$(PATH) python tests/benchmark/seeding.py
	@.venv/bin/pip install --quiet --disable-pip-version-check matplotlib
	@.venv/bin/python tests/benchmark/chart.py

moving: setup
	@PATH=$(CURDIR)/.venv/bin:$(PATH) python -m pytest -v -p no:cacheprovider tests/integration/test_moving.py

down:
	@scripts/lab down
