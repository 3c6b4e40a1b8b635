// Terraform walks the sequences that Terraform's AWS provider is documented to do for a small configuration (VPC, subnet,
// security group, key pair, instance): create, wait, read with every call of a refresh, update in place, delete with its
// retries. The provider itself is not used. After each apply a second refresh must read the same: an empty plan.
package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/nimbrel/nimbrel/test/clients/internal/steps"
)

// patience is how long a state may take on a loaded machine.
const patience = 3 * time.Minute

// publicKey is a key pair's public half whose private half nobody has.
const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPOeXN3nHcB7KYT6WbOIjRJNt2lM6SkDjCiqKxoDyBnm walk"

type stack struct {
	steps.Walk
	ec2 *ec2.Client
	sts *sts.Client

	vpc, subnet, group, image, instance string
}

func main() {
	// The SDK's retries stay on: without them it ends calls with "use of closed network connection", whoever serves (decision
	// 0016 has the measurement).
	settings, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := &stack{Walk: steps.Walk{Client: "terraform"}, ec2: ec2.NewFromConfig(settings), sts: sts.NewFromConfig(settings)}
	s.Main([]steps.Step{
		{Name: "configure", Do: s.configure}, {Name: "vpc", Do: s.createVPC}, {Name: "subnet", Do: s.createSubnet}, {Name: "group", Do: s.createGroup},
		{Name: "key", Do: s.createKey}, {Name: "instance", Do: s.createInstance}, {Name: "plan_is_empty", Do: s.planIsEmpty}, {Name: "update", Do: s.update},
		{Name: "replan_is_empty", Do: s.planIsEmpty}, {Name: "destroy", Do: s.destroy}, {Name: "gone", Do: s.gone},
	}...)
}

// configure is what the provider asks before anything else, and the data source of the image.
func (s *stack) configure(ctx context.Context) error {
	if _, err := s.sts.GetCallerIdentity(ctx, nil); err != nil {
		return err
	}
	platforms, err := s.ec2.DescribeAccountAttributes(ctx, &ec2.DescribeAccountAttributesInput{AttributeNames: []types.AccountAttributeName{"supported-platforms"}})
	if err != nil {
		return err
	}
	if err := steps.Same("platform", *platforms.AccountAttributes[0].AttributeValues[0].AttributeValue, "VPC"); err != nil {
		return err
	}
	zones, err := s.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{Filters: filter("state", "available")})
	if err != nil || len(zones.AvailabilityZones) == 0 {
		return fmt.Errorf("no zones: %w", err)
	}
	images, err := s.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{Filters: filter("is-public", "true")})
	if err != nil || len(images.Images) == 0 {
		return fmt.Errorf("no image: %w", err)
	}
	s.image = *images.Images[0].ImageId
	return nil
}

func filter(name string, values ...string) []types.Filter {
	return []types.Filter{{Name: aws.String(name), Values: values}}
}

func tags(kind types.ResourceType) []types.TagSpecification {
	return []types.TagSpecification{{ResourceType: kind, Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("terraform")}}}}
}

// planIsEmpty refreshes twice; the second reading must be the first one.
func (s *stack) planIsEmpty(ctx context.Context) error {
	first, err := s.refresh(ctx)
	if err != nil {
		return err
	}
	second, err := s.refresh(ctx)
	if err != nil {
		return err
	}
	for name := range first {
		if !reflect.DeepEqual(first[name], second[name]) {
			return fmt.Errorf("%s differs between two refreshes: %+v and %+v", name, first[name], second[name])
		}
	}
	return nil
}

// refresh reads every resource with all the calls that the provider makes for it.
func (s *stack) refresh(ctx context.Context) (map[string]any, error) {
	state := map[string]any{}
	for _, read := range []func(context.Context, map[string]any) error{s.readVPC, s.readSubnet, s.readGroup, s.readKey, s.readInstance} {
		if err := read(ctx, state); err != nil {
			return nil, err
		}
	}
	return state, nil
}
