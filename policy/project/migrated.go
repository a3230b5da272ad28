package project

import (
	"io/fs"
	"slices"
	"tidegate/policy"
)

// wso2Lock says that a project was imported from WSO2 API Manager (package policy/wso2).
const wso2Lock = "wso2.lock.json"

// warnMigrated tells of plans that API Manager always has, and whose absence means no limit
// here.
func (l *loader) warnMigrated() {
	if _, err := fs.Stat(l.fsys, wso2Lock); err != nil {
		return
	}
	has := func(name string) bool {
		return slices.ContainsFunc(l.set.Plans, func(p policy.Plan) bool { return p.Kind == policy.SubscriptionPlan && p.Name == name })
	}
	if !has(policy.Unauthenticated) {
		l.report.Add(Finding{
			Pos: policy.Pos{File: plansFile}, Severity: Warning, Security: true,
			Message: "no subscription plan Unauthenticated: calls without a subscription are not limited, as API Manager limits them",
			Hint:    "define Unauthenticated in subscriptionPolicies",
		})
	}
	if len(l.set.Users) > 0 && !has(policy.DefaultPlan) {
		l.report.Add(Finding{
			Pos: policy.Pos{File: plansFile}, Severity: Warning, Security: true,
			Message: "no subscription plan Default: users who log in with HTTP Basic are not limited, as API Manager limits them",
			Hint:    "define Default in subscriptionPolicies",
		})
	}
}
