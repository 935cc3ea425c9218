package fleet

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
)

// vehicle is one car: its papers, its driver and the trip that it is on.
type vehicle struct {
	client, vin, plate    string
	driver, phone, idCard string
	home                  Position // centre of its city
	at                    Position
	heading, turn         float64 // radians, radians a step
	speed                 float64 // km/h
	soc, odometer         float64 // percent, km
	clock                 int64   // ms since 1970
}

const provinces = "京沪粤新黑津渝冀豫云辽湘皖鲁苏浙赣鄂桂甘晋蒙陕吉闽贵青藏川宁琼"

func newVehicle(rng *rand.Rand, n int) *vehicle {
	city := cities[n%len(cities)]
	v := &vehicle{
		client:   fmt.Sprintf("car-%04d", n+1),
		vin:      newVIN(rng, n),
		plate:    newPlate(rng),
		driver:   newName(rng),
		phone:    newMobile(rng),
		idCard:   newIDCard(rng),
		home:     city,
		heading:  rng.Float64() * 2 * math.Pi,
		speed:    20 + rng.Float64()*60,
		soc:      40 + rng.Float64()*60,
		odometer: 1000 + rng.Float64()*90000,
		clock:    1_793_577_600_000 + int64(n)*37,
	}
	v.at = Position{city.Lat + (rng.Float64()-0.5)*0.1, city.Lon + (rng.Float64()-0.5)*0.1}
	return v
}

// drive moves the vehicle on by one second: it bends smoothly, changes speed slowly and turns back towards its city
// when it is more than about 12 km away.
func (v *vehicle) drive(rng *rand.Rand) {
	v.turn = 0.9*v.turn + (rng.Float64()-0.5)*0.05
	north, east := v.at.Lat-v.home.Lat, (v.at.Lon-v.home.Lon)*math.Cos(v.home.Lat*math.Pi/180)
	if math.Hypot(north, east) > 0.11 {
		back := math.Remainder(math.Atan2(-east, -north)-v.heading, 2*math.Pi)
		v.turn = 0.2 * back
	}
	v.heading = math.Mod(v.heading+v.turn, 2*math.Pi)
	v.speed = min(max(v.speed+(rng.Float64()-0.5)*6, 0), 120)
	km := v.speed / 3600
	v.at.Lat += km / 111.3 * math.Cos(v.heading)
	v.at.Lon += km / 111.3 * math.Sin(v.heading) / math.Cos(v.at.Lat*math.Pi/180)
	v.odometer += km
	v.soc = max(v.soc-km*0.02, 5)
	v.clock += 1000
}

// position is where the vehicle is, in the precision that it reports.
func (v *vehicle) position() Position { return Position{sixth(v.at.Lat), sixth(v.at.Lon)} }

// sixth rounds to six decimals and makes the last one differ from zero, so that no position looks coarser than it is.
func sixth(d float64) float64 {
	micro := math.Round(d * 1e6)
	if math.Mod(micro, 10) == 0 {
		micro++
	}
	return micro / 1e6
}

// degrees writes a coordinate as a vehicle does, with six decimals.
func degrees(d float64) string { return strconv.FormatFloat(d, 'f', 6, 64) }

const vinAlphabet = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"

// newVIN makes a VIN of the synthetic maker LTE with a valid check digit. [ISO 3779]
func newVIN(rng *rand.Rand, n int) string {
	b := []byte("LTEST0000" + "T1000000")
	for i := 5; i < 8; i++ {
		b[i] = vinAlphabet[rng.IntN(len(vinAlphabet))]
	}
	copy(b[11:], fmt.Sprintf("%06d", (rng.IntN(1000)*1000+n)%1_000_000))
	sum := 0
	for i, c := range b {
		sum += vinWeights[i] * vinValue(c)
	}
	b[8] = "0123456789X"[sum%11]
	return string(b)
}

var vinWeights = [17]int{8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2}

func vinValue(c byte) int {
	switch {
	case c <= '9':
		return int(c - '0')
	case c <= 'I':
		return int(c-'A') + 1
	case c <= 'R':
		return int(c-'J') + 1
	}
	return int(c-'S') + 2
}

// newPlate makes an ordinary plate or, one in two, the plate of a small electric car.
func newPlate(rng *rand.Rand) string {
	const letters, mixed = "ABCDEFGHJKLMNPQRSTUVWXYZ", "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"
	p := []rune(provinces)
	s := string(p[rng.IntN(len(p))]) + string(letters[rng.IntN(len(letters))])
	if rng.IntN(2) == 0 {
		return s + string("DABCEFGHJK"[rng.IntN(10)]) + string(mixed[rng.IntN(len(mixed))]) + fmt.Sprintf("%04d", rng.IntN(10000))
	}
	for range 5 {
		s += string(mixed[rng.IntN(len(mixed))])
	}
	return s
}

func newMobile(rng *rand.Rand) string {
	return fmt.Sprintf("1%d%09d", 3+rng.IntN(7), rng.IntN(1_000_000_000))
}

// newIDCard makes an identity number with a real date and a valid check character. [GB 11643-1999]
func newIDCard(rng *rand.Rand) string {
	regions := []string{"110101", "310104", "440106", "650102", "230103"}
	s := regions[rng.IntN(len(regions))] + fmt.Sprintf("%d%02d%02d%03d", 1960+rng.IntN(45), 1+rng.IntN(12), 1+rng.IntN(28), rng.IntN(1000))
	sum := 0
	for i, w := range [17]int{7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2} {
		sum += w * int(s[i]-'0')
	}
	return s + string("10X98765432"[sum%11])
}

func newName(rng *rand.Rand) string {
	family, given := []rune("王李张刘陈杨赵黄周吴徐孙"), []rune("伟芳娜敏静强磊洋艳勇军杰娟涛明超秀霞平刚")
	return string(family[rng.IntN(len(family))]) + string(given[rng.IntN(len(given))]) + string(given[rng.IntN(len(given))])
}
