import sys; sys.path.insert(0,'/work/main')
from tests.distributed import test_every_method as m
mine={"dpop","cal_dpo","flex_dpo","mappo","alpha_dpo","beta_dpo","dr_dpo","ns_dpo","dpo_cov","ropo","osc","stapo","spo_dpo","spo_cpo","spo_simpo"}
m.CASES[:]=[c for c in m.CASES if c.slug in mine]
from tests.distributed.test_every_method import *
