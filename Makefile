# make stage4    a running stage 4 in containers (stage1, stage2, stage3 likewise); make down removes it
# make test      every test; make test-quick for daily work
.PHONY: setup stage1 stage2 stage3 stage4 test test-quick down

stage1 stage2 stage3 stage4:
	@scripts/lab up $@

setup:
	@scripts/setup

test:
	@scripts/test

test-quick:
	@scripts/test quick

down:
	@scripts/lab down
