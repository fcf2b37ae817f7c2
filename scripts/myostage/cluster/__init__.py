"""What a cluster is asked for, and whether it gives it.

in:      settings of a site, sizes of a study
out:     resources of jobs, estimates, a check of the cluster
imports: study, runtime and below only
"""
